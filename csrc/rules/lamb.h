// LAMB: Adam's step, scaled for each array by a trust ratio, the norm of the parameter over the norm of the step.
// You et al., 2020, arXiv:1904.00962
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct LAMB {
    static constexpr const char* name = "lamb";
    static constexpr std::array hyper{"lr",        "beta1",     "beta2",           "eps",          "eps_root",
                                      "min_trust", "max_trust", "bias_correction", "weight_decay", "decoupled"};
    static constexpr std::array state{"m", "v"};
    static constexpr int sums = 2;

    double lr, min_trust, max_trust;
    Ema<T> mean1, mean2;
    T m_scale, eps, eps_root, weight_decay, decay, step_size = 0;
    bool decoupled;

    // The bias corrections become constants, as in adam.h.
    FO_HD LAMB(const Clock& clock, double lr, double beta1, double beta2, double eps, double eps_root, double min_trust,
               double max_trust, double bias_correction, double weight_decay, double decoupled)
        : lr(lr),
          min_trust(min_trust),
          max_trust(max_trust),
          mean1(beta1),
          mean2(beta2),
          weight_decay(T(weight_decay)),
          decay(T(decoupled != 0 ? lr * weight_decay : 0)),
          decoupled(decoupled != 0) {
        const double bias_correction1 = bias_correction != 0 ? mean1.bias_correction(clock) : 1;
        const double bias_correction2 = bias_correction != 0 ? mean2.bias_correction(clock) : 1;
        m_scale = T(sqrt(bias_correction2) / bias_correction1);
        this->eps = T(eps * sqrt(bias_correction2));
        this->eps_root = T(eps_root * bias_correction2);
    }

    FO_HD T unscaled_step(T p, T m, T v) const {
        const T adam = m_scale * m / (sqrt(v + eps_root) + eps);
        return decoupled ? adam : adam + weight_decay * p;
    }

    // Updates the moving averages.  The terms are of the squared norms of the parameter and of its unscaled step.
    FO_HD std::array<double, sums> reduce_terms(T p, T g, T& m, T& v) const {
        m = mean1(m, g);
        v = mean2.of_square(v, g);
        const T decayed = shrink(p, decay);
        const double x(decayed), y(unscaled_step(decayed, m, v));
        return {x * x, y * y};
    }

    FO_HD void finalize(const double* squared_norms, double* const*) {
        const double p_norm = sqrt(squared_norms[0]), step_norm = sqrt(squared_norms[1]);
        const bool has_norms = p_norm > 0 && step_norm > 0;
        step_size = T(has_norms ? lr * clamp(p_norm / step_norm, min_trust, max_trust) : lr);
    }

    FO_HD void operator()(T& p, Unread, const T& m, const T& v) const {
        const T decayed = shrink(p, decay);
        p = decayed - step_size * unscaled_step(decayed, m, v);
    }
};

FO_RULE(LAMB)

}  // namespace fo::FO_TARGET
