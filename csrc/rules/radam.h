// RAdam: Adam with a step size rectified for the variance of v, and plain momentum while that variance is undefined.
// Liu et al., 2020, arXiv:1908.03265
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct RAdam {
    static constexpr const char* name = "radam";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "threshold", "eps_hat"};
    static constexpr std::array state{"m", "v"};

    Ema<T> mean1, mean2;
    T step_size, eps;
    bool is_rectified;

    // rho: the paper's length of the approximating simple moving average.
    FO_HD RAdam(const Clock& clock, double lr, double beta1, double beta2, double eps, double threshold, double eps_hat)
        : mean1(beta1), mean2(beta2) {
        const double bias_correction2 = mean2.bias_correction(clock);
        const double rho_inf = 2 / (1 - double(mean2.beta)) - 1;
        const double rho = rho_inf - 2 * double(clock.t) * clock.power(double(mean2.beta)) / bias_correction2;
        is_rectified = rho > threshold;
        double size = lr / mean1.bias_correction(clock);
        if (is_rectified)
            size *=
                sqrt(bias_correction2) * sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho));
        step_size = T(size);
        this->eps = T(eps_hat != 0 ? eps : eps * sqrt(bias_correction2));
    }

    FO_HD T step(Unread, T g, T& m, T& v) const {
        m = mean1(m, g);
        v = mean2.of_square(v, g);
        const T unrectified = step_size * m;
        return is_rectified ? unrectified / (sqrt(v) + eps) : unrectified;
    }
};

FO_RULE(RAdam)

}  // namespace fo::FO_TARGET
