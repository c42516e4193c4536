// NovoGrad: momentum of gradients that are normalised array by array, by a running mean of their squared norm.
// Ginsburg et al., 2019, arXiv:1905.11286
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Novograd {
    static constexpr const char* name = "novograd";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "weight_decay", "decoupled", "grad_averaging"};
    static constexpr std::array state{"m"};
    static constexpr std::array scalar_state{"v"};
    static constexpr int sums = 1;

    double beta2, eps;
    T lr, keep1, fresh, weight_decay, keep, scale = 0;
    bool first, decoupled;

    FO_HD Novograd(const Clock& clock, double lr, double beta1, double beta2, double eps, double weight_decay,
                   double decoupled, double grad_averaging)
        : beta2(beta2),
          eps(eps),
          lr(T(lr)),
          keep1(decay<T>(beta1)),
          fresh(grad_averaging != 0 ? rise(keep1) : T(1)),
          weight_decay(T(weight_decay)),
          keep(T(decoupled != 0 ? 1 - lr * weight_decay : 1)),
          first(clock.t == 1),
          decoupled(decoupled != 0) {}

    FO_HD std::array<double, sums> reduce_terms(Unread, T g, Unread) const { return {double(g) * double(g)}; }

    FO_HD void finalize(const double* squares, double* const* own) {
        double& v = *own[0];
        v = first ? squares[0] : beta2 * v + (1 - beta2) * squares[0];
        scale = T(1 / (sqrt(v) + eps));
    }

    FO_HD void operator()(T& p, T g, T& m) const {
        const T shrunk = keep * p;
        const T unit = scale * g;
        m = keep1 * m + fresh * (decoupled ? unit : unit + weight_decay * shrunk);
        p = shrunk - lr * m;
    }
};

FO_RULE(Novograd)

}  // namespace fo::FO_TARGET
