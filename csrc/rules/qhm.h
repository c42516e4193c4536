// QHM, quasi-hyperbolic momentum: a weighted average of the gradient and of its moving average.
// Ma & Yarats, 2019, arXiv:1810.06801
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct QHM {
    static constexpr const char* name = "qhm";
    static constexpr std::array hyper{"lr", "beta", "nu"};
    static constexpr std::array state{"b"};

    Ema<T> mean;
    T g_weight, b_weight;

    FO_HD QHM(const Clock&, double lr, double beta, double nu)
        : mean(beta), g_weight(T(lr * (1 - nu))), b_weight(T(lr * nu)) {}

    FO_HD T step(Unread, T g, T& b) const {
        b = mean(b, g);
        return g_weight * g + b_weight * b;
    }
};

FO_RULE(QHM)

}  // namespace fo::FO_TARGET
