// Yogi: Adam whose v changes by at most (1 - beta2)*g^2 in a step.
// Zaheer et al., NeurIPS 2018, "Adaptive Methods for Nonconvex Optimization"
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Yogi {
    static constexpr const char* name = "yogi";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "bias_correction"};
    static constexpr std::array state{"m", "v"};

    Ema<T> mean1, mean2;
    T step_size, eps;

    FO_HD Yogi(const Clock& clock, double lr, double beta1, double beta2, double eps, double bias_correction)
        : mean1(beta1), mean2(beta2), step_size(T(lr)), eps(T(eps)) {
        if (bias_correction == 0) return;
        const double bias_correction1 = mean1.bias_correction(clock), bias_correction2 = mean2.bias_correction(clock);
        step_size = T(lr * sqrt(bias_correction2) / bias_correction1);
        this->eps = T(eps * sqrt(bias_correction2));
    }

    FO_HD T step(Unread, T g, T& m, T& v) const {
        const T square = g * g;
        m = mean1(m, g);
        v -= mean2.one_minus_beta * sign(v - square) * square;
        return step_size * m / (sqrt(v) + eps);
    }
};

FO_RULE(Yogi)

}  // namespace fo::FO_TARGET
