// RMSprop as Graves wrote it: centred, with the momentum in the step itself.
// Graves, 2013, arXiv:1308.0850, equations 38 to 45
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct RmspropGraves {
    static constexpr const char* name = "rmsprop_graves";
    static constexpr std::array hyper{"lr", "alpha", "momentum", "eps"};
    static constexpr std::array state{"s", "g_avg", "delta"};

    T lr, keep, fresh, momentum, eps;

    FO_HD RmspropGraves(const Clock&, double lr, double alpha, double momentum, double eps)
        : lr(T(lr)), keep(decay<T>(alpha)), fresh(rise(keep)), momentum(T(momentum)), eps(T(eps)) {}

    // The variance is never negative; its rounded difference can be, and the root of that would be NaN.
    FO_HD void operator()(T& p, T g, T& s, T& g_avg, T& delta) const {
        s = keep * s + fresh * g * g;
        g_avg = keep * g_avg + fresh * g;
        delta = momentum * delta - lr * g / sqrt(at_least(s - g_avg * g_avg, T(0)) + eps);
        p += delta;
    }
};

FO_RULE(RmspropGraves)

}  // namespace fo::FO_TARGET
