// NovoGrad: momentum of gradients that are normalised for each array by a moving average of their squared norm.
// Ginsburg et al., 2019, arXiv:1905.11286
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct NovoGrad {
    static constexpr const char* name = "novograd";
    static constexpr std::array hyper{"lr",           "beta1",     "beta2",          "eps",
                                      "weight_decay", "decoupled", "grad_averaging", "dampen_first"};
    static constexpr std::array state{"m"};
    static constexpr std::array scalar_state{"v"};
    static constexpr int sums = 1;

    double beta2, eps;
    T lr, beta1, gradient_weight, weight_decay, decay, inverse_norm = 0;
    bool is_first, decoupled;

    FO_HD NovoGrad(const Clock& clock, double lr, double beta1, double beta2, double eps, double weight_decay,
                   double decoupled, double grad_averaging, double dampen_first)
        : beta2(beta2),
          eps(eps),
          lr(T(lr)),
          beta1(Ema<T>(beta1).beta),
          weight_decay(T(weight_decay)),
          decay(T(decoupled != 0 ? lr * weight_decay : 0)),
          is_first(clock.t == 1),
          decoupled(decoupled != 0) {
        const bool is_dampened = grad_averaging != 0 && (dampen_first != 0 || !is_first);
        gradient_weight = is_dampened ? Ema<T>(beta1).one_minus_beta : T(1);
    }

    FO_HD std::array<double, sums> reduce_terms(Unread, T g, Unread) const { return {double(g) * double(g)}; }

    FO_HD void finalize(const double* squared_norm, double* const* scalar_state) {
        double& v = *scalar_state[0];
        v = is_first ? squared_norm[0] : beta2 * v + (1 - beta2) * squared_norm[0];
        inverse_norm = T(1 / (sqrt(v) + eps));
    }

    FO_HD void operator()(T& p, T g, T& m) const {
        const T decayed = shrink(p, decay);
        const T normalized = inverse_norm * g;
        m = beta1 * m + gradient_weight * (decoupled ? normalized : normalized + weight_decay * decayed);
        p = decayed - lr * m;
    }
};

FO_RULE(NovoGrad)

}  // namespace fo::FO_TARGET
