// NAdam: Adam with Nesterov momentum, whose coefficient grows from beta1/2 to beta1.
// Dozat, 2016, openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct NAdam {
    static constexpr const char* name = "nadam";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "fade", "next_fade", "ramp_loss"};
    static constexpr std::array state{"m", "v"};

    Ema<T> mean1, mean2;
    T g_step_size, m_step_size, eps;

    // The momentum coefficients are mu_t = beta1*(1 - fade), and the product of those so far is
    // beta1^t * (1 - ramp_loss).  1 minus either is a sum of positive numbers, in which no digits cancel.
    // Numerator and denominator are multiplied by sqrt(1 - beta2^t), as in adam.h.
    FO_HD NAdam(const Clock& clock, double lr, double beta1, double beta2, double eps, double fade, double next_fade,
                double ramp_loss)
        : mean1(beta1), mean2(beta2) {
        const double root = sqrt(mean2.bias_correction(clock));
        const double beta = double(mean1.beta), correction = mean1.bias_correction(clock);
        const double one_minus_mu = (1 - beta) + beta * fade, one_minus_next = (1 - beta) + beta * next_fade;
        const double one_minus_product = correction + (1 - correction) * ramp_loss;
        const double product = (1 - correction) * (1 - ramp_loss);
        g_step_size = T(lr * root * one_minus_mu / one_minus_product);
        m_step_size = T(lr * root * beta * (1 - next_fade) / (one_minus_product + product * one_minus_next));
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
