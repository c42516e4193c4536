// Adam: bias-corrected running means of the gradient and of its square; AMSGrad: the largest such mean so far.
// Kingma & Ba, 2015, arXiv:1412.6980; Reddi, Kale & Kumar, 2018, arXiv:1904.09237
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Adam {
    static constexpr const char* name = "adam";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "eps_root"};
    static constexpr std::array state{"m", "v"};

    T keep1, rise1, keep2, rise2, rate, eps, eps_root;

    // lr*mhat / (sqrt(vhat + eps_root) + eps), both halves of the fraction times sqrt(1 - beta2^t): the corrections
    // become scalars and an element costs one division and one root.
    FO_HD Adam(const Clock& clock, double lr, double beta1, double beta2, double eps, double eps_root)
        : keep1(decay<T>(beta1)), rise1(rise(keep1)), keep2(decay<T>(beta2)), rise2(rise(keep2)) {
        const double bias1 = clock.bias(double(keep1)), bias2 = clock.bias(double(keep2));
        rate = T(lr * sqrt(bias2) / bias1);
        this->eps = T(eps * sqrt(bias2));
        this->eps_root = T(eps_root * bias2);
    }

    FO_HD void average(T g, T& m, T& v) const {
        m = keep1 * m + rise1 * g;
        v = keep2 * v + rise2 * g * g;
    }

    FO_HD T step(T m, T v) const { return rate * m / (sqrt(v + eps_root) + eps); }

    FO_HD void operator()(T& p, T g, T& m, T& v) const {
        average(g, m, v);
        p -= step(m, v);
    }
};

template <class T>
struct AdamAmsgrad : Adam<T> {
    static constexpr const char* name = "adam_amsgrad";
    static constexpr std::array state{"m", "v", "v_max"};

    using Adam<T>::Adam;

    FO_HD void operator()(T& p, T g, T& m, T& v, T& v_max) const {
        this->average(g, m, v);
        v_max = max(v_max, v);
        p -= this->step(m, v_max);
    }
};

FO_RULE(Adam)
FO_RULE(AdamAmsgrad)

}  // namespace fo::FO_TARGET
