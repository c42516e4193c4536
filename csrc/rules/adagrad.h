// Adagrad: a learning rate for each element that decreases with the sum of its squared gradients.
// Duchi, Hazan & Singer, 2011, jmlr.org/papers/v12/duchi11a
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Adagrad {
    static constexpr const char* name = "adagrad";
    static constexpr std::array hyper{"lr", "eps", "eps_root", "lr_decay"};
    static constexpr std::array state{"s"};

    T step_size, eps, eps_root;

    FO_HD Adagrad(const Clock& clock, double lr, double eps, double eps_root, double lr_decay)
        : step_size(T(lr / (1 + double(clock.t - 1) * lr_decay))), eps(T(eps)), eps_root(T(eps_root)) {}

    FO_HD T denominator(T g, T& s) const {
        s += g * g;
        return sqrt(s + eps_root) + eps;
    }

    FO_HD T step(Unread, T g, T& s) const { return step_size * g / denominator(g, s); }
};

// The same followed by the proximal operator of l1*|p| + l2/2*p^2, at each element's own learning rate.
// Duchi & Singer, 2009, jmlr.org/papers/v10/duchi09a
template <class T>
struct AdagradProximal {
    static constexpr const char* name = "adagrad_proximal";
    static constexpr std::array hyper{"lr", "eps", "eps_root", "lr_decay", "l1_regularization", "l2_regularization"};
    static constexpr std::array state{"s"};

    Adagrad<T> adagrad;
    T l1, l2;

    FO_HD AdagradProximal(const Clock& clock, double lr, double eps, double eps_root, double lr_decay, double l1,
                          double l2)
        : adagrad(clock, lr, eps, eps_root, lr_decay), l1(T(l1)), l2(T(l2)) {}

    FO_HD void operator()(T& p, T g, T& s) const {
        const T rate = adagrad.step_size / adagrad.denominator(g, s);
        p = soft_threshold(p - rate * g, rate * l1) / (T(1) + rate * l2);
    }
};

FO_RULE(Adagrad)
FO_RULE(AdagradProximal)

}  // namespace fo::FO_TARGET
