// QHAdam, quasi-hyperbolic Adam: weighted averages of the gradient, and of its square, with their moving averages.
// Ma & Yarats, 2019, arXiv:1810.06801
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct QHAdam {
    static constexpr const char* name = "qhadam";
    static constexpr std::array hyper{"lr", "nu1", "nu2", "beta1", "beta2", "eps"};
    static constexpr std::array state{"m", "v"};

    Ema<T> mean1, mean2;
    T g_weight, m_weight, g_square_weight, v_weight, eps;

    FO_HD QHAdam(const Clock& clock, double lr, double nu1, double nu2, double beta1, double beta2, double eps)
        : mean1(beta1),
          mean2(beta2),
          g_weight(T(lr * (1 - nu1))),
          m_weight(T(lr * nu1 / mean1.bias_correction(clock))),
          g_square_weight(T(1 - nu2)),
          v_weight(T(nu2 / mean2.bias_correction(clock))),
          eps(T(eps)) {}

    FO_HD T step(Unread, T g, T& m, T& v) const {
        m = mean1(m, g);
        v = mean2.of_square(v, g);
        return (g_weight * g + m_weight * m) / (sqrt(g_square_weight * g * g + v_weight * v) + eps);
    }
};

FO_RULE(QHAdam)

}  // namespace fo::FO_TARGET
