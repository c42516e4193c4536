// StableAdamW: AdamW whose learning rate falls where the gradients of an array exceed their running root mean square.
// Wortsman et al., 2023, arXiv:2304.13013
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct StableAdamW {
    static constexpr const char* name = "stable_adamw";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "weight_decay", "decoupled"};
    static constexpr std::array state{"m", "v"};
    static constexpr int sums = 2;

    Ema<T> mean1, mean2;
    double lr, step_scale, bias_correction2, decoupled_decay;
    T eps, least_v, coupled_decay, step_size = 0, decay = 0;

    FO_HD StableAdamW(const Clock& clock, double lr, double beta1, double beta2, double eps, double weight_decay,
                      double decoupled)
        : mean1(beta1),
          mean2(beta2),
          lr(lr),
          bias_correction2(mean2.bias_correction(clock)),
          decoupled_decay(decoupled != 0 ? weight_decay : 0),
          coupled_decay(T(decoupled != 0 ? 0 : weight_decay)) {
        step_scale = sqrt(bias_correction2) / mean1.bias_correction(clock);
        this->eps = T(eps * sqrt(bias_correction2));
        least_v = T(eps * eps * bias_correction2);
    }

    // The terms of the mean of g^2 / max(v, eps^2), without the bias correction of v, and the number of elements.
    FO_HD std::array<double, sums> reduce_terms(T p, T g, T& m, T& v) const {
        const T decayed = coupled_decay != T(0) ? g + coupled_decay * p : g;
        m = mean1(m, decayed);
        v = mean2.of_square(v, decayed);
        return {double(decayed * decayed / at_least(v, least_v)), 1};
    }

    FO_HD void finalize(const double* sum, double* const*) {
        const double ratio = sqrt(bias_correction2 * (sum[0] / sum[1]));
        const double rate = ratio > 1 ? lr / ratio : lr;
        step_size = T(rate * step_scale);
        decay = T(rate * decoupled_decay);
    }

    FO_HD void operator()(T& p, Unread, const T& m, const T& v) const {
        p = shrink(p, decay) - step_size * m / (sqrt(v) + eps);
    }
};

FO_RULE(StableAdamW)

}  // namespace fo::FO_TARGET
