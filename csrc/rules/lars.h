// LARS: momentum with a learning rate for each array, scaled by the ratio of the norms of parameter and gradient.
// You, Gitman & Ginsburg, 2017, arXiv:1708.03888
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct LARS {
    static constexpr const char* name = "lars";
    static constexpr std::array hyper{"lr",           "momentum",  "trust_coefficient", "eps",
                                      "weight_decay", "decoupled", "decayed_norm",      "nesterov"};
    static constexpr std::array state{"v"};
    static constexpr int sums = 2;

    double lr, trust_coefficient, eps, norm_decay;
    T momentum, weight_decay, decay, step_size = 0;
    bool decoupled, decayed_norm, nesterov;

    FO_HD LARS(const Clock&, double lr, double momentum, double trust_coefficient, double eps, double weight_decay,
               double decoupled, double decayed_norm, double nesterov)
        : lr(lr),
          trust_coefficient(trust_coefficient),
          eps(eps),
          norm_decay(decoupled != 0 || decayed_norm != 0 ? 0 : weight_decay),
          momentum(T(momentum)),
          weight_decay(T(weight_decay)),
          decay(T(decoupled != 0 ? lr * weight_decay : 0)),
          decoupled(decoupled != 0),
          decayed_norm(decayed_norm != 0),
          nesterov(nesterov != 0) {}

    FO_HD T penalized(T g, T p) const { return decoupled ? g : g + weight_decay * p; }

    // The terms of the squared norms of the parameter and of the gradient, the latter with weight decay on request.
    FO_HD std::array<double, sums> reduce_terms(T p, T g, Unread) const {
        const T decayed = shrink(p, decay);
        const double x(decayed), y(decayed_norm ? penalized(g, decayed) : g);
        return {x * x, y * y};
    }

    FO_HD void finalize(const double* squared_norms, double* const*) {
        const double p_norm = sqrt(squared_norms[0]), g_norm = sqrt(squared_norms[1]);
        const double decay_norm = norm_decay != 0 ? norm_decay * p_norm : 0;  // 0*infinity would be NaN
        const double trust_ratio =
            p_norm > 0 && g_norm > 0 ? trust_coefficient * p_norm / (g_norm + decay_norm + eps) : 1;
        step_size = T(lr * trust_ratio);
    }

    FO_HD void operator()(T& p, T g, T& v) const {
        const T decayed = shrink(p, decay);
        const T scaled = step_size * penalized(g, decayed);
        v = momentum * v + scaled;
        p = decayed - (nesterov ? momentum * v + scaled : v);
    }
};

FO_RULE(LARS)

}  // namespace fo::FO_TARGET
