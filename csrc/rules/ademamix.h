// AdEMAMix: Adam with a second, much slower moving average of the gradient in the numerator.
// Pagliardini, Ablin & Grangier, 2024, arXiv:2409.03137
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct AdEMAMix {
    static constexpr const char* name = "ademamix";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "beta3", "alpha", "eps"};
    static constexpr std::array state{"m1", "m2", "v"};

    Ema<T> mean1, mean2, mean3;
    T m1_step_size, m2_step_size, eps;

    // Numerator and denominator are multiplied by sqrt(1 - beta2^t), as in adam.h; m2 has no bias correction.
    FO_HD AdEMAMix(const Clock& clock, double lr, double beta1, double beta2, double beta3, double alpha, double eps)
        : mean1(beta1), mean2(beta2), mean3(beta3) {
        const double root = sqrt(mean2.bias_correction(clock));
        m1_step_size = T(lr * root / mean1.bias_correction(clock));
        m2_step_size = T(lr * root * alpha);
        this->eps = T(eps * root);
    }

    FO_HD T step(Unread, T g, T& m1, T& m2, T& v) const {
        m1 = mean1(m1, g);
        m2 = mean3(m2, g);
        v = mean2.of_square(v, g);
        return (m1_step_size * m1 + m2_step_size * m2) / (sqrt(v) + eps);
    }
};

FO_RULE(AdEMAMix)

}  // namespace fo::FO_TARGET
