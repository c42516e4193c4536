// Adan: moving averages of the gradient and of its difference to the previous one, over a root mean square of both.
// Xie et al., 2022, arXiv:2208.06677
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Adan {
    static constexpr const char* name = "adan";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "beta3", "eps", "weight_decay", "decoupled"};
    static constexpr std::array state{"m", "v", "n", "g_prev"};

    Ema<T> mean1, mean2, mean3;
    T m_step_size, v_step_size, eps, weight_decay, decay;
    T is_first, is_coupled;  // 0 or 1: GCC does not vectorise selections by several bools

    // Numerator and denominator are multiplied by sqrt(1 - beta3^t), as in adam.h.
    FO_HD Adan(const Clock& clock, double lr, double beta1, double beta2, double beta3, double eps, double weight_decay,
               double decoupled)
        : mean1(beta1),
          mean2(beta2),
          mean3(beta3),
          weight_decay(T(weight_decay)),
          decay(T(decoupled != 0 ? lr * weight_decay / (1 + lr * weight_decay) : 0)),
          is_first(T(clock.t == 1)),
          is_coupled(T(decoupled == 0 && weight_decay != 0)) {
        const double root = sqrt(mean3.bias_correction(clock));
        m_step_size = T(lr * root / mean1.bias_correction(clock));
        v_step_size = T(lr * double(mean2.beta) * root / mean2.bias_correction(clock));
        this->eps = T(eps * root);
    }

    FO_HD void operator()(T& p, T g, T& m, T& v, T& n, T& g_prev) const {
        const T penalized = g + weight_decay * p;
        g = is_coupled != T(0) ? penalized : g;
        const T difference = is_first != T(0) ? T(0) : g - g_prev;
        const T extrapolated = g + mean2.beta * difference;
        m = mean1(m, g);
        v = mean2(v, difference);
        n = mean3.of_square(n, extrapolated);
        g_prev = g;
        p = shrink(p - (m_step_size * m + v_step_size * v) / (sqrt(n) + eps), decay);
    }
};

FO_RULE(Adan)

}  // namespace fo::FO_TARGET
