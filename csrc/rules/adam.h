// Adam: bias-corrected running means of the gradient and of its square; AMSGrad: the largest such mean so far.
// Kingma & Ba, 2015, arXiv:1412.6980; Reddi, Kale & Kumar, 2018, arXiv:1904.09237
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Adam {
    static constexpr const char* name = "adam";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "eps_root", "eps_hat", "bias_correction"};
    static constexpr std::array state{"m", "v"};

    T keep1, rise1, keep2, rise2, rate, eps, eps_root, correction;

    // lr*mhat / (sqrt(vhat + eps_root) + eps), both halves of the fraction times sqrt(1 - beta2^t): the corrections
    // become constants and an element costs one division and one root.  `corrected`: the root is of vhat itself.
    FO_HD Adam(const Clock& clock, double lr, double beta1, double beta2, double eps, double eps_root, double eps_hat,
               double bias_correction, bool corrected = false)
        : keep1(decay<T>(beta1)), rise1(rise(keep1)), keep2(decay<T>(beta2)), rise2(rise(keep2)) {
        const double bias1 = bias_correction != 0 ? clock.bias(double(keep1)) : 1;
        const double bias2 = bias_correction != 0 ? clock.bias(double(keep2)) : 1;
        const double lacking = corrected ? 1 : bias2;                               // in what the root is of
        const double meant = eps_hat != 0 ? (corrected ? 1 / bias2 : 1) : lacking;  // the same of the epsilons
        rate = T(lr * sqrt(lacking) / bias1);
        this->eps = T(eps * sqrt(meant));
        this->eps_root = T(eps_root * meant);
        correction = T(corrected ? 1 / bias2 : 1);
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
    static constexpr std::array hyper{"lr",       "beta1",   "beta2",           "eps",
                                      "eps_root", "eps_hat", "bias_correction", "amsgrad_corrected"};
    static constexpr std::array state{"m", "v", "v_max"};

    FO_HD AdamAmsgrad(const Clock& clock, double lr, double beta1, double beta2, double eps, double eps_root,
                      double eps_hat, double bias_correction, double amsgrad_corrected)
        : Adam<T>(clock, lr, beta1, beta2, eps, eps_root, eps_hat, bias_correction, amsgrad_corrected != 0) {}

    FO_HD void operator()(T& p, T g, T& m, T& v, T& v_max) const {
        this->average(g, m, v);
        v_max = max(v_max, this->correction * v);
        p -= this->step(m, v_max);
    }
};

FO_RULE(Adam)
FO_RULE(AdamAmsgrad)

}  // namespace fo::FO_TARGET
