// SignSGD: steps along the sign of the gradient.
// Bernstein et al., 2018, arXiv:1802.04434
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct SignSGD {
    static constexpr const char* name = "signsgd";
    static constexpr std::array hyper{"lr"};
    static constexpr std::array<const char*, 0> state{};

    T lr;

    FO_HD SignSGD(const Clock&, double lr) : lr(T(lr)) {}

    FO_HD T step(Unread, T g) const { return lr * sign(g); }
};

FO_RULE(SignSGD)

}  // namespace fo::FO_TARGET
