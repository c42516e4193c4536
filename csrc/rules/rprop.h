// Rprop: steps of a size of their own for each element, by the gradient's sign alone.
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

    T down, up, smallest, largest;

    // The learning rate is what step_size starts from.
    FO_HD Rprop(const Clock&, double, double eta1, double eta2, double step_size1, double step_size2)
        : down(T(eta1)), up(T(eta2)), smallest(T(step_size1)), largest(T(step_size2)) {}

    // The other gradient's sign in the product, which could underflow.  With min and max, or a second sign, GCC leaves
    // the loop unvectorised: twenty times slower.
    FO_HD void operator()(T& p, T g, T& prev, T& step_size) const {
        const T way = sign(g), turn = way * prev;
        const bool turns = turn < T(0);
        const T grows = turn > T(0) ? up : T(1);
        const T size = (turns ? down : grows) * step_size;
        step_size = within(size, smallest, largest);
        prev = turns ? T(0) : g;
        p -= (turns ? T(0) : way) * step_size;
    }
};

FO_RULE(Rprop)

}  // namespace fo::FO_TARGET
