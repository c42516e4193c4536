// SMORMS3: RMSprop whose decay rate and step size follow from the signal-to-noise ratio of the gradient.
// Funk, 2015, "RMSprop loses to SMORMS3 - Beware the Epsilon!"
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct SMORMS3 {
    static constexpr const char* name = "smorms3";
    static constexpr std::array hyper{"lr", "eps"};
    static constexpr std::array state{"mem", "m", "v"};

    T lr, eps;

    FO_HD SMORMS3(const Clock&, double lr, double eps) : lr(T(lr)), eps(T(eps)) {}

    // mem: the averaging length of the element, in steps.
    FO_HD T step(Unread, T g, T& mem, T& m, T& v) const {
        const T one_minus_beta = T(1) / (mem + T(1)), beta = T(1) - one_minus_beta;
        m = beta * m + one_minus_beta * g;
        v = beta * v + one_minus_beta * g * g;
        const T signal = m * m / (v + eps);
        mem = T(1) + mem * (T(1) - signal);
        return g * min(lr, signal) / (sqrt(v) + eps);
    }
};

FO_RULE(SMORMS3)

}  // namespace fo::FO_TARGET
