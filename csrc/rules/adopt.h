// ADOPT: the gradient over the root of the mean square of those before it, and only then the running mean.
// Taniguchi et al., 2024, arXiv:2411.02853
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Adopt {
    static constexpr const char* name = "adopt";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "clipped"};
    static constexpr std::array state{"m", "v"};

    T lr, keep1, rise1, keep2, rise2, eps, bound;
    bool first;

    FO_HD Adopt(const Clock& clock, double lr, double beta1, double beta2, double eps, double clipped)
        : lr(T(lr)),
          keep1(decay<T>(beta1)),
          rise1(rise(keep1)),
          keep2(decay<T>(beta2)),
          rise2(rise(keep2)),
          eps(T(eps)),
          bound(clipped != 0 ? T(sqrt(sqrt(double(clock.t - 1)))) : T(INFINITY)),
          first(clock.t == 1) {}

    // The first gradient has none before it: it starts v, and nothing moves.
    FO_HD void operator()(T& p, T g, T& m, T& v) const {
        const T clipped = within(g / at_least(sqrt(v), eps), -bound, bound);
        const T mean = keep1 * m + rise1 * clipped;
        const T moved = p - lr * mean;
        const T square = g * g;
        m = first ? m : mean;
        p = first ? p : moved;
        v = first ? square : keep2 * v + rise2 * square;
    }
};

FO_RULE(Adopt)

}  // namespace fo::FO_TARGET
