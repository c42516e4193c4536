// LARS: momentum with a learning rate for each array, scaled by the ratio of the norms of parameter and gradient.
// You, Gitman & Ginsburg, 2017, arXiv:1708.03888
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct LARS {
    static constexpr const char* name = "lars";
    static constexpr std::array hyper{"lr",           "momentum",         "trust_coefficient", "eps",
                                      "weight_decay", "decoupled",        "decayed_norm",      "nesterov",
                                      "trust_clip",   "decays_ratio_only"};
    static constexpr std::array state{"v"};
    static constexpr int sums = 2;

    double lr, trust_coefficient, eps, norm_decay;
    T momentum, weight_decay, step_decay, decay, step_size = 0;
    bool decoupled, decayed_norm, nesterov, trust_clip;

    FO_HD LARS(const Clock&, double lr, double momentum, double trust_coefficient, double eps, double weight_decay,
               double decoupled, double decayed_norm, double nesterov, double trust_clip, double decays_ratio_only)
        : lr(lr),
          trust_coefficient(trust_coefficient),
          eps(eps),
          norm_decay(decoupled != 0 || decayed_norm != 0 ? 0 : weight_decay),
          momentum(T(momentum)),
          weight_decay(T(weight_decay)),
          step_decay(T(decays_ratio_only != 0 ? 0 : weight_decay)),
          decay(T(decoupled != 0 ? lr * weight_decay : 0)),
          decoupled(decoupled != 0),
          decayed_norm(decayed_norm != 0),
          nesterov(nesterov != 0),
          trust_clip(trust_clip != 0) {}

    FO_HD T penalized(T g, T p, T coupled) const { return decoupled ? g : g + coupled * p; }

    // The terms of the squared norms of the parameter and of the gradient, the latter with weight decay on request.
    FO_HD std::array<double, sums> reduce_terms(T p, T g, Unread) const {
        const T decayed = shrink(p, decay);
        const double x(decayed), y(decayed_norm ? penalized(g, decayed, weight_decay) : g);
        return {x * x, y * y};
    }

    FO_HD void finalize(const double* squared_norms, double* const*) {
        const double p_norm = sqrt(squared_norms[0]), g_norm = sqrt(squared_norms[1]);
        const double decay_norm = norm_decay != 0 ? norm_decay * p_norm : 0;  // 0*infinity would be NaN
        const bool has_norms = p_norm > 0 && g_norm > 0;
        const double trust_ratio = has_norms ? trust_coefficient * p_norm / (g_norm + decay_norm + eps) : 1;
        step_size = T(trust_clip && has_norms ? min(trust_ratio, lr) : lr * trust_ratio);
    }

    FO_HD void operator()(T& p, T g, T& v) const {
        const T decayed = shrink(p, decay);
        const T scaled = step_size * penalized(g, decayed, step_decay);
        v = momentum * v + scaled;
        p = decayed - (nesterov ? momentum * v + scaled : v);
    }
};

FO_RULE(LARS)

}  // namespace fo::FO_TARGET
