// MARS-AdamW: Adam on a gradient that is corrected by its change since the step before, which reduces its variance.
// Yuan, Liu, Wu, Zhou & Gu, 2024, arXiv:2411.10438
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct MARS {
    static constexpr const char* name = "mars";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "gamma", "corrects_first"};
    static constexpr std::array state{"m", "v", "g_last"};
    static constexpr int sums = 1;

    Ema<T> mean1, mean2;
    T step_size, eps, correction, scale = 1;

    FO_HD MARS(const Clock& clock, double lr, double beta1, double beta2, double eps, double gamma,
               double corrects_first)
        : mean1(beta1), mean2(beta2) {
        const double bias_correction2 = mean2.bias_correction(clock);
        step_size = T(lr * sqrt(bias_correction2) / mean1.bias_correction(clock));
        this->eps = T(eps * sqrt(bias_correction2));
        correction = T(clock.t == 1 && corrects_first == 0 ? 0 : gamma * beta1 / (1 - beta1));
    }

    FO_HD T corrected(T g, T g_last) const { return g + correction * (g - g_last); }

    FO_HD std::array<double, sums> reduce_terms(Unread, T g, Unread, Unread, T g_last) const {
        const double c(corrected(g, g_last));
        return {c * c};
    }

    FO_HD void finalize(const double* squared_norm, double* const*) {
        const double norm = sqrt(squared_norm[0]);
        scale = T(norm > 1 ? 1 / norm : 1);
    }

    FO_HD T step(Unread, T g, T& m, T& v, T& g_last) const {
        const T c = scale * corrected(g, g_last);
        m = mean1(m, c);
        v = mean2.of_square(v, c);
        g_last = g;
        return step_size * m / (sqrt(v) + eps);
    }
};

FO_RULE(MARS)

}  // namespace fo::FO_TARGET
