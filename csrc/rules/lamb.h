// LAMB: Adam's step, scaled to each array's own norm.
// You et al., 2020, arXiv:1904.00962
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Lamb {
    static constexpr const char* name = "lamb";
    static constexpr std::array hyper{"lr",       "beta1",           "beta2",        "eps",
                                      "eps_root", "bias_correction", "weight_decay", "decoupled"};
    static constexpr std::array state{"m", "v"};
    static constexpr int sums = 2;

    double lr;
    T keep1, rise1, keep2, rise2, scale, eps, eps_root, weight_decay, keep, rate = 0;
    bool decoupled;

    // The corrections of the means become constants, as in adam.h.
    FO_HD Lamb(const Clock& clock, double lr, double beta1, double beta2, double eps, double eps_root,
               double bias_correction, double weight_decay, double decoupled)
        : lr(lr),
          keep1(fo::FO_TARGET::decay<T>(beta1)),
          rise1(rise(keep1)),
          keep2(fo::FO_TARGET::decay<T>(beta2)),
          rise2(rise(keep2)),
          weight_decay(T(weight_decay)),
          keep(T(decoupled != 0 ? 1 - lr * weight_decay : 1)),
          decoupled(decoupled != 0) {
        const double bias1 = bias_correction != 0 ? clock.bias(double(keep1)) : 1;
        const double bias2 = bias_correction != 0 ? clock.bias(double(keep2)) : 1;
        scale = T(sqrt(bias2) / bias1);
        this->eps = T(eps * sqrt(bias2));
        this->eps_root = T(eps_root * bias2);
    }

    FO_HD T step(T p, T m, T v) const {
        const T adam = scale * m / (sqrt(v + eps_root) + eps);
        return decoupled ? adam : adam + weight_decay * p;
    }

    // The means, and the squares of the parameter and of its step.
    FO_HD std::array<double, sums> reduce_terms(T p, T g, T& m, T& v) const {
        m = keep1 * m + rise1 * g;
        v = keep2 * v + rise2 * g * g;
        const T shrunk = keep * p;
        const double x(shrunk), y(step(shrunk, m, v));
        return {x * x, y * y};
    }

    FO_HD void finalize(const double* squares, double* const*) {
        const double p = sqrt(squares[0]), u = sqrt(squares[1]);
        rate = T(p > 0 && u > 0 ? lr * (p / u) : lr);
    }

    FO_HD void operator()(T& p, Unread, const T& m, const T& v) const {
        const T shrunk = keep * p;
        p = shrunk - rate * step(shrunk, m, v);
    }
};

FO_RULE(Lamb)

}  // namespace fo::FO_TARGET
