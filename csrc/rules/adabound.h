// AdaBound: Adam whose step sizes are clamped to bounds that converge to one value.  AMSBound: with the maximum of v.
// Luo et al., 2019, arXiv:1902.09843
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct AdaBound {
    static constexpr const char* name = "adabound";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "final_lr", "gamma", "eps", "lr_ratio"};
    static constexpr std::array state{"m", "v"};

    Ema<T> mean1, mean2;
    T step_size, eps, lower, upper;

    FO_HD AdaBound(const Clock& clock, double lr, double beta1, double beta2, double final_lr, double gamma, double eps,
                   double lr_ratio)
        : mean1(beta1), mean2(beta2), eps(T(eps)) {
        step_size = T(lr * sqrt(mean2.bias_correction(clock)) / mean1.bias_correction(clock));
        const double limit = final_lr * lr_ratio, gamma_t = gamma * double(clock.t);
        lower = gamma_t > 0 ? T(limit / (1 + 1 / gamma_t)) : T(0);
        upper = gamma_t > 0 ? T(limit * (1 + 1 / gamma_t)) : T(INFINITY);
    }

    FO_HD void update_means(T g, T& m, T& v) const {
        m = mean1(m, g);
        v = mean2.of_square(v, g);
    }

    FO_HD T bounded_step(T m, T v) const { return clamp(step_size / (sqrt(v) + eps), lower, upper) * m; }

    FO_HD T step(Unread, T g, T& m, T& v) const {
        update_means(g, m, v);
        return bounded_step(m, v);
    }
};

template <class T>
struct AMSBound : AdaBound<T> {
    static constexpr const char* name = "adabound_amsbound";
    static constexpr std::array state{"m", "v", "v_max"};

    using AdaBound<T>::AdaBound;

    FO_HD T step(Unread, T g, T& m, T& v, T& v_max) const {
        this->update_means(g, m, v);
        v_max = max(v_max, v);
        return this->bounded_step(m, v_max);
    }
};

FO_RULE(AdaBound)
FO_RULE(AMSBound)

}  // namespace fo::FO_TARGET
