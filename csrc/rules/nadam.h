// NAdam: Adam with Nesterov momentum, whose coefficient grows from beta1/2 to beta1.
// Dozat, 2016, openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct NAdam {
    static constexpr const char* name = "nadam";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "ramp", "next_ramp", "ramp_product"};
    static constexpr std::array state{"m", "v"};

    Ema<T> mean1, mean2;
    T g_step_size, m_step_size, eps;

    // The momentum coefficients are mu_t = beta1*ramp, and mu_product is the product of those so far.
    // Numerator and denominator are multiplied by sqrt(1 - beta2^t), as in adam.h.
    FO_HD NAdam(const Clock& clock, double lr, double beta1, double beta2, double eps, double ramp, double next_ramp,
                double ramp_product)
        : mean1(beta1), mean2(beta2) {
        const double root = sqrt(mean2.bias_correction(clock));
        const double mu = double(mean1.beta) * ramp, next_mu = double(mean1.beta) * next_ramp;
        const double mu_product = clock.power(double(mean1.beta)) * ramp_product;
        g_step_size = T(lr * root * (1 - mu) / (1 - mu_product));
        m_step_size = T(lr * root * next_mu / (1 - mu_product * next_mu));
        this->eps = T(eps * root);
    }

    FO_HD T step(Unread, T g, T& m, T& v) const {
        m = mean1(m, g);
        v = mean2.of_square(v, g);
        return (g_step_size * g + m_step_size * m) / (sqrt(v) + eps);
    }
};

FO_RULE(NAdam)

}  // namespace fo::FO_TARGET
