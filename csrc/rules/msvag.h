// M-SVAG: momentum, with each element scaled down by the relative variance of its average gradient.
// Balles & Hennig, 2018, arXiv:1705.07774
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct MSVAG {
    static constexpr const char* name = "msvag";
    static constexpr std::array hyper{"lr", "beta"};
    static constexpr std::array state{"m", "v"};

    Ema<T> mean;
    T step_size, bias_correction, variance_weight;

    // The factor m_hat^2 / (m_hat^2 + rho*s), with numerator and denominator multiplied by (1 - beta^t)^2: the bias
    // corrections become constants.  variance_weight = rho / (1 - rho) for
    // rho = (1-beta)(1+beta^t) / ((1+beta)(1-beta^t)).  A single gradient has no variance.
    FO_HD MSVAG(const Clock& clock, double lr, double beta) : mean(beta) {
        const double rounded = double(mean.beta), correction = mean.bias_correction(clock);
        const double difference = rounded * Clock{clock.t - 1}.bias_correction(rounded);  // beta - beta^t
        step_size = T(lr / correction);
        bias_correction = T(correction);
        variance_weight = T(difference > 0 ? (1 - rounded) * (2 - correction) / (2 * difference) : 0);
    }

    FO_HD T step(Unread, T g, T& m, T& v) const {
        m = mean(m, g);
        v = mean.of_square(v, g);
        const T square = m * m;
        const T denominator = square + variance_weight * at_least(bias_correction * v - square, T(0));
        return step_size * m * (square / (denominator == T(0) ? T(1) : denominator));
    }
};

FO_RULE(MSVAG)

}  // namespace fo::FO_TARGET
