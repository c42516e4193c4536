// Sophia: the running mean of the gradient over that of an estimate of the diagonal of the Hessian, within bounds.
// Liu et al., 2023, arXiv:2305.14342
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Sophia {
    static constexpr const char* name = "sophia";
    static constexpr std::array hyper{"lr", "beta1", "gamma", "eps"};
    static constexpr std::array state{"m", "h"};

    T lr, keep, fresh, gamma, eps;
    T bound = 1;  // no constant, of which GCC would multiply each choice by lr for itself

    FO_HD Sophia(const Clock&, double lr, double beta1, double gamma, double eps)
        : lr(T(lr)), keep(decay<T>(beta1)), fresh(rise(keep)), gamma(T(gamma)), eps(T(eps)) {}

    FO_HD void operator()(T& p, T g, T& m, T h) const {
        m = keep * m + fresh * g;
        p -= lr * within(m / at_least(gamma * h, eps), -bound, bound);
    }
};

// What keeps h: its g is an estimate of the Hessian's diagonal, and p stays.
template <class T>
struct SophiaHessian {
    static constexpr const char* name = "sophia_hessian";
    static constexpr std::array hyper{"beta2"};
    static constexpr std::array state{"h"};

    T keep, fresh;

    FO_HD SophiaHessian(const Clock&, double beta2) : keep(decay<T>(beta2)), fresh(rise(keep)) {}

    FO_HD void operator()(Unread, T g, T& h) const { h = keep * h + fresh * g; }
};

FO_RULE(Sophia)
FO_RULE(SophiaHessian)

}  // namespace fo::FO_TARGET
