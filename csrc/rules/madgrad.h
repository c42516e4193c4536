// MADGRAD: dual averaging with momentum, over the cube root of the sum of squared gradients.
// Defazio & Jelassi, 2021, arXiv:2101.11075
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct MADGRAD {
    static constexpr const char* name = "madgrad";
    static constexpr std::array hyper{"lr", "momentum", "eps", "eps_in_lr"};
    static constexpr std::array state{"s", "v", "x0"};

    T gradient_weight, one_minus_momentum, eps;

    FO_HD MADGRAD(const Clock& clock, double lr, double momentum, double eps, double eps_in_lr)
        : gradient_weight(T((lr + (eps_in_lr != 0 ? eps : 0)) * sqrt(double(clock.t)))),
          one_minus_momentum(Ema<T>(momentum).one_minus_beta),
          eps(T(eps)) {}

    FO_HD T step(T p, T g, T& s, T& v, const T& x0) const {
        s = s + gradient_weight * g;
        v = v + gradient_weight * g * g;
        const T z = x0 - s / (cube_root(v) + eps);
        return -(one_minus_momentum * (z - p));
    }
};

FO_RULE(MADGRAD)

}  // namespace fo::FO_TARGET
