// AdaBound: Adam with each step size within bounds that close in on one of SGD; AMSBound: with the largest mean so far.
// Luo et al., 2019, arXiv:1902.09843
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct AdaBound {
    static constexpr const char* name = "adabound";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "final_lr", "gamma", "eps", "lr_ratio"};
    static constexpr std::array state{"m", "v"};

    T keep1, rise1, keep2, rise2, rate, eps, lower, upper;

    FO_HD AdaBound(const Clock& clock, double lr, double beta1, double beta2, double final_lr, double gamma, double eps,
                   double lr_ratio)
        : keep1(decay<T>(beta1)), rise1(rise(keep1)), keep2(decay<T>(beta2)), rise2(rise(keep2)), eps(T(eps)) {
        rate = T(lr * sqrt(clock.bias(double(keep2))) / clock.bias(double(keep1)));
        const double goal = final_lr * lr_ratio, closing = gamma * double(clock.t);
        lower = T(goal * (1 - 1 / (closing + 1)));
        upper = closing > 0 ? T(goal * (1 + 1 / closing)) : T(INFINITY);
    }

    FO_HD void average(T g, T& m, T& v) const {
        m = keep1 * m + rise1 * g;
        v = keep2 * v + rise2 * g * g;
    }

    FO_HD T step(T m, T v) const { return within(rate / (sqrt(v) + eps), lower, upper) * m; }

    FO_HD void operator()(T& p, T g, T& m, T& v) const {
        average(g, m, v);
        p -= step(m, v);
    }
};

template <class T>
struct AmsBound : AdaBound<T> {
    static constexpr const char* name = "adabound_amsbound";
    static constexpr std::array state{"m", "v", "v_max"};

    using AdaBound<T>::AdaBound;

    FO_HD void operator()(T& p, T g, T& m, T& v, T& v_max) const {
        this->average(g, m, v);
        v_max = max(v_max, v);
        p -= this->step(m, v_max);
    }
};

FO_RULE(AdaBound)
FO_RULE(AmsBound)

}  // namespace fo::FO_TARGET
