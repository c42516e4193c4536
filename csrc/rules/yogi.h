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

    FO_HD T denominator(T g, T& m, T& v) const {
        const T square = g * g;
        m = mean1(m, g);
        v -= mean2.one_minus_beta * sign(v - square) * square;
        return sqrt(v) + eps;
    }

    FO_HD T step(Unread, T g, T& m, T& v) const {
        const T divisor = denominator(g, m, v);
        return step_size * m / divisor;
    }
};

// The same followed by the proximal operator of l1*|p| + l2/2*p^2, at each element's own learning rate.
template <class T>
struct YogiProximal {
    static constexpr const char* name = "yogi_proximal";
    static constexpr std::array hyper{
        "lr", "beta1", "beta2", "eps", "bias_correction", "l1_regularization", "l2_regularization"};
    static constexpr std::array state{"m", "v"};

    Yogi<T> yogi;
    T l1, l2;

    FO_HD YogiProximal(const Clock& clock, double lr, double beta1, double beta2, double eps, double bias_correction,
                       double l1, double l2)
        : yogi(clock, lr, beta1, beta2, eps, bias_correction), l1(T(l1)), l2(T(l2)) {}

    FO_HD void operator()(T& p, T g, T& m, T& v) const {
        const T rate = yogi.step_size / yogi.denominator(g, m, v);
        p = soft_threshold(p - rate * m, rate * l1) / (T(1) + rate * l2);
    }
};

FO_RULE(Yogi)
FO_RULE(YogiProximal)

}  // namespace fo::FO_TARGET
