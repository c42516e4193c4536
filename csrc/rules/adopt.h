// ADOPT: the gradient over the root mean square of the previous gradients, then the moving average.
// Taniguchi et al., 2024, arXiv:2411.02853
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct ADOPT {
    static constexpr const char* name = "adopt";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "clipped"};
    static constexpr std::array state{"m", "v"};

    Ema<T> mean1, mean2;
    T lr, eps, bound;
    bool is_first;

    FO_HD ADOPT(const Clock& clock, double lr, double beta1, double beta2, double eps, double clipped)
        : mean1(beta1),
          mean2(beta2),
          lr(T(lr)),
          eps(T(eps)),
          bound(clipped != 0 ? T(sqrt(sqrt(double(clock.t - 1)))) : T(INFINITY)),
          is_first(clock.t == 1) {}

    // The first step only initialises v.
    FO_HD T step(Unread, T g, T& m, T& v) const {
        const T clipped = clamp(g / at_least(sqrt(v), eps), -bound, bound);
        const T mean = mean1(m, clipped);
        const T d = lr * mean;
        const T square = g * g;
        m = is_first ? m : mean;
        v = is_first ? square : mean2(v, square);
        return is_first ? T(0) : d;
    }
};

FO_RULE(ADOPT)

}  // namespace fo::FO_TARGET
