// RAdam: Adam with a step size rectified for the variance of v, and plain momentum while that variance is undefined.
// Liu et al., 2020, arXiv:1908.03265
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

// The paper's rho, the length of the simple moving average that approximates the exponential one after t steps:
//     rho = rho_inf - 2*t*beta^t / (1 - beta^t), with rho_inf = 2/(1 - beta) - 1.
// The difference would lose up to all digits.  rho = 2*q/c - 1 with c = 1 - beta^n and q the sum over i < n of
// beta^i - beta^n has only sums of positive numbers, for twice n and for n + 1.
FO_HD inline double moving_average_length(const Clock& clock, double beta) {
    double n = 0, c = 0, q = 0, power = 1;
    const auto update_power = [&](double product) { power = c <= 0.5 ? 1 - c : product; };  // of the smaller error
    std::int64_t bit = 1;
    while (bit <= clock.t / 2) bit *= 2;
    for (; bit > 0; bit /= 2) {
        q = q * (1 + power) + n * power * c;
        c = c * (1 + power);
        n *= 2;
        update_power(power * power);
        if (!(clock.t & bit)) continue;
        n += 1;
        q += n * power * (1 - beta);
        c += power * (1 - beta);
        update_power(power * beta);
    }
    return 2 * (q / c) - 1;
}

template <class T>
struct RAdam {
    static constexpr const char* name = "radam";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "threshold", "eps_hat"};
    static constexpr std::array state{"m", "v"};

    Ema<T> mean1, mean2;
    T step_size, eps;
    bool is_rectified;

    FO_HD RAdam(const Clock& clock, double lr, double beta1, double beta2, double eps, double threshold, double eps_hat)
        : mean1(beta1), mean2(beta2) {
        const double bias_correction2 = mean2.bias_correction(clock);
        const double beta = double(mean2.beta), rho_inf = (1 + beta) / (1 - beta);
        const double rho = moving_average_length(clock, beta);
        is_rectified = rho > threshold;
        double size = lr / mean1.bias_correction(clock);
        if (is_rectified)
            size *=
                sqrt(bias_correction2) * sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho));
        step_size = T(size);
        this->eps = T(eps_hat != 0 ? eps : eps * sqrt(bias_correction2));
    }

    FO_HD void update_means(T g, T& m, T& v) const {
        m = mean1(m, g);
        v = mean2.of_square(v, g);
    }

    FO_HD T rectified_step(T m, T v) const {
        const T unrectified = step_size * m;
        return is_rectified ? unrectified / (sqrt(v) + eps) : unrectified;
    }

    FO_HD T step(Unread, T g, T& m, T& v) const {
        update_means(g, m, v);
        return rectified_step(m, v);
    }
};

// With the maximum of v, as AMSGrad.
template <class T>
struct RAdamAMSGrad : RAdam<T> {
    static constexpr const char* name = "radam_amsgrad";
    static constexpr std::array state{"m", "v", "v_max"};

    using RAdam<T>::RAdam;

    FO_HD T step(Unread, T g, T& m, T& v, T& v_max) const {
        this->update_means(g, m, v);
        v_max = max(v_max, v);
        return this->rectified_step(m, v_max);
    }
};

FO_RULE(RAdam)
FO_RULE(RAdamAMSGrad)

}  // namespace fo::FO_TARGET
