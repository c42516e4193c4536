// Rprop: a step size for each element, adapted and applied by the sign of the gradient alone.
// Riedmiller & Braun, 1993, doi:10.1109/ICNN.1993.298623; without weight backtracking: Igel & Huesken, 2003,
// doi:10.1016/S0925-2312(01)00700-7
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Rprop {
    static constexpr const char* name = "rprop";
    static constexpr std::array hyper{"lr", "eta1", "eta2", "step_size1", "step_size2"};
    static constexpr std::array state{"prev", "step_size"};

    T eta1, eta2, min_step_size, max_step_size;

    // The learning rate is the initial value of step_size.
    FO_HD Rprop(const Clock&, double, double eta1, double eta2, double step_size1, double step_size2)
        : eta1(T(eta1)), eta2(T(eta2)), min_step_size(T(step_size1)), max_step_size(T(step_size2)) {}

    // Uses sign(g)*prev: the product of the two gradients could underflow.  With min and max, or a second sign, GCC
    // does not vectorise the loop, which makes it 20 times slower.
    FO_HD T step(Unread, T g, T& prev, T& step_size) const {
        const T direction = sign(g), agreement = direction * prev;
        const bool changed_sign = agreement < T(0);
        const T growth = agreement > T(0) ? eta2 : T(1);
        const T unclamped = (changed_sign ? eta1 : growth) * step_size;
        step_size = clamp(unclamped, min_step_size, max_step_size);
        prev = changed_sign ? T(0) : g;
        return (changed_sign ? T(0) : direction) * step_size;
    }
};

FO_RULE(Rprop)

}  // namespace fo::FO_TARGET
