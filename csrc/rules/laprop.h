// LaProp: the moving average of gradients that are already normalised by their root mean square.
// Ziyin, Wang & Ueda, 2020, arXiv:2002.04839
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct LaProp {
    static constexpr const char* name = "laprop";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps"};
    static constexpr std::array state{"m", "v"};

    Ema<T> mean1, mean2;
    T g_scale, step_size, eps;

    // (1 - beta1)*g / (sqrt(v_hat) + eps), with numerator and denominator multiplied by sqrt(1 - beta2^t).
    FO_HD LaProp(const Clock& clock, double lr, double beta1, double beta2, double eps) : mean1(beta1), mean2(beta2) {
        const double root = sqrt(mean2.bias_correction(clock));
        g_scale = T((1 - double(mean1.beta)) * root);
        step_size = T(lr / mean1.bias_correction(clock));
        this->eps = T(eps * root);
    }

    FO_HD T step(Unread, T g, T& m, T& v) const {
        v = mean2.of_square(v, g);
        m = mean1.beta * m + g_scale * g / (sqrt(v) + eps);
        return step_size * m;
    }
};

FO_RULE(LaProp)

}  // namespace fo::FO_TARGET
