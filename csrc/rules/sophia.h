// Sophia: the moving average of the gradient over that of an estimated Hessian diagonal, clamped to [-1, 1].
// Liu et al., 2023, arXiv:2305.14342
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Sophia {
    static constexpr const char* name = "sophia";
    static constexpr std::array hyper{"lr", "beta1", "gamma", "eps"};
    static constexpr std::array state{"m", "h"};

    Ema<T> mean1;
    T lr, gamma, eps;
    T bound = 1;  // not a literal, by which GCC would multiply lr separately in each branch of the clamp

    FO_HD Sophia(const Clock&, double lr, double beta1, double gamma, double eps)
        : mean1(beta1), lr(T(lr)), gamma(T(gamma)), eps(T(eps)) {}

    FO_HD T step(Unread, T g, T& m, T h) const {
        m = mean1(m, g);
        return lr * clamp(m / at_least(gamma * h, eps), -bound, bound);
    }
};

// Updates h alone.  The gradient argument is an estimate of the Hessian diagonal.
template <class T>
struct SophiaHessian {
    static constexpr const char* name = "sophia_hessian";
    static constexpr std::array hyper{"beta2"};
    static constexpr std::array state{"h"};

    Ema<T> mean2;

    FO_HD SophiaHessian(const Clock&, double beta2) : mean2(beta2) {}

    FO_HD void operator()(Unread, T g, T& h) const { h = mean2(h, g); }
};

FO_RULE(Sophia)
FO_RULE(SophiaHessian)

}  // namespace fo::FO_TARGET
