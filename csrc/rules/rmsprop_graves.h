// RMSprop in the form of Graves: centered, with momentum in the step itself.
// Graves, 2013, arXiv:1308.0850, equations 38 to 45
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct RMSpropGraves {
    static constexpr const char* name = "rmsprop_graves";
    static constexpr std::array hyper{"lr", "alpha", "momentum", "eps"};
    static constexpr std::array state{"s", "g_avg", "delta"};

    Ema<T> mean;
    T lr, momentum, eps;

    FO_HD RMSpropGraves(const Clock&, double lr, double alpha, double momentum, double eps)
        : mean(alpha), lr(T(lr)), momentum(T(momentum)), eps(T(eps)) {}

    // The variance s - g_avg^2 can become negative by rounding, and its square root NaN.
    FO_HD T step(Unread, T g, T& s, T& g_avg, T& delta) const {
        s = mean.of_square(s, g);
        g_avg = mean(g_avg, g);
        delta = momentum * delta - lr * g / sqrt(at_least(s - g_avg * g_avg, T(0)) + eps);
        return -delta;
    }
};

FO_RULE(RMSpropGraves)

}  // namespace fo::FO_TARGET
