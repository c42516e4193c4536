// Prodigy: Adam that estimates its learning rate from the distance of the parameters to their initial values.
// Mishchenko & Defazio, 2024, arXiv:2306.06101; the order of operations is that of the authors' code.
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Prodigy {
    static constexpr const char* name = "prodigy";
    static constexpr std::array hyper{"lr",
                                      "beta1",
                                      "beta2",
                                      "beta3",
                                      "eps",
                                      "d0",
                                      "d_coef",
                                      "growth_rate",
                                      "safeguard_warmup",
                                      "weight_decay",
                                      "bias_correction",
                                      "decoupled"};
    static constexpr std::array state{"m", "v", "s", "p0"};
    static constexpr std::array scalar_state{"d", "d_max", "d_numerator"};
    static constexpr int sums = 2;
    static constexpr bool reduces_all = true;

    double beta3, eps, d0, d_coef, growth_rate, corrected_lr;  // corrected_lr: with bias correction, without d
    Ema<T> mean1, mean2;
    T s_decay, weight_decay, m_weight = 0, v_weight = 0, s_weight = 0, step_size = 0, d_eps = 1, decay = 0;
    bool decoupled, safeguard_warmup, is_enabled = false;

    FO_HD Prodigy(const Clock& clock, double lr, double beta1, double beta2, double beta3, double eps, double d0,
                  double d_coef, double growth_rate, double safeguard_warmup, double weight_decay,
                  double bias_correction, double decoupled)
        : beta3(beta3),
          eps(eps),
          d0(d0),
          d_coef(d_coef),
          growth_rate(growth_rate),
          corrected_lr(lr),
          mean1(beta1),
          mean2(beta2),
          s_decay(decay_rate<T>(beta3)),
          weight_decay(T(weight_decay)),
          decoupled(decoupled != 0),
          safeguard_warmup(safeguard_warmup != 0) {
        if (bias_correction != 0) corrected_lr = lr * sqrt(mean2.bias_correction(clock)) / mean1.bias_correction(clock);
    }

    // The weights of the gradient, scaled by the previous estimate d.
    FO_HD void before_reduce(double* const* scalar_state) {
        const double d = *scalar_state[0];
        m_weight = T(d * double(mean1.one_minus_beta));
        v_weight = T(d * d * double(mean2.one_minus_beta));
        s_weight = T(d / d0 * (safeguard_warmup ? d : d * corrected_lr));
    }

    // Updates the moving averages.  The terms are of the numerator, the inner product of the gradient and p0 - p, and
    // of the denominator, the L1 norm of s.
    FO_HD std::array<double, sums> reduce_terms(T p, T g, T& m, T& v, T& s, T p0) const {
        const T penalized = decoupled ? g : g + weight_decay * p;
        m = mean1.beta * m + m_weight * penalized;
        v = mean2.beta * v + v_weight * penalized * penalized;
        s = s_decay * s + s_weight * penalized;
        return {corrected_lr * (double(penalized) * double(p0 - p)), double(abs(s))};
    }

    // The sums are those of all arrays.  The estimate does not depend on lr, which may differ between groups and be 0
    // in some of them.
    FO_HD void finalize(const double* sums, double* const* scalar_state) {
        double &d = *scalar_state[0], &d_max = *scalar_state[1], &numerator = *scalar_state[2];
        numerator = beta3 * numerator + d / d0 * d * sums[0];
        if (sums[1] == 0) return;  // every gradient so far was zero
        is_enabled = true;
        const double scaled_lr = d * corrected_lr;
        if (corrected_lr > 0 || sums[0] != 0) {
            const double estimate = d_coef * numerator / sums[1];
            if (d == d0 && estimate > d) d = estimate;
            if (estimate > d_max) d_max = estimate;
            d = d * growth_rate < d_max ? d * growth_rate : d_max;
        }
        step_size = T(scaled_lr);
        d_eps = T(d * eps);
        if (decoupled) decay = T(double(weight_decay) * scaled_lr);
    }

    // A disabled step leaves p unchanged; with zeros for constants -0 could become +0.
    FO_HD void operator()(T& p, Unread, const T& m, const T& v, Unread, Unread) const {
        p = is_enabled ? shrink(p, decay) - step_size * m / (sqrt(v) + d_eps) : p;
    }
};

FO_RULE(Prodigy)

}  // namespace fo::FO_TARGET
