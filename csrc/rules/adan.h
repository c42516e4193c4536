// Adan: means of the gradient and of its change, over the root of the mean square of both together.
// Xie et al., 2022, arXiv:2208.06677
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Adan {
    static constexpr const char* name = "adan";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "beta3", "eps", "weight_decay", "decoupled"};
    static constexpr std::array state{"m", "v", "n", "g_prev"};

    T keep1, rise1, keep2, rise2, keep3, rise3, rate, change_rate, eps, l2, shrink;
    T first, adds_l2;  // 0 or 1: GCC does not vectorise choices by several bools

    // Both halves of the fraction times sqrt(1 - beta3^t), as in Adam.
    FO_HD Adan(const Clock& clock, double lr, double beta1, double beta2, double beta3, double eps, double weight_decay,
               double decoupled)
        : keep1(decay<T>(beta1)),
          rise1(rise(keep1)),
          keep2(decay<T>(beta2)),
          rise2(rise(keep2)),
          keep3(decay<T>(beta3)),
          rise3(rise(keep3)),
          l2(T(weight_decay)),
          shrink(decoupled != 0 ? T(1 / (1 + lr * weight_decay)) : T(1)),
          first(T(clock.t == 1)),
          adds_l2(T(decoupled == 0 && weight_decay != 0)) {
        const double root = sqrt(clock.bias(double(keep3)));
        rate = T(lr * root / clock.bias(double(keep1)));
        change_rate = T(lr * double(keep2) * root / clock.bias(double(keep2)));
        this->eps = T(eps * root);
    }

    FO_HD void operator()(T& p, T g, T& m, T& v, T& n, T& g_prev) const {
        const T penalized = g + l2 * p;
        g = adds_l2 != T(0) ? penalized : g;
        const T change = first != T(0) ? T(0) : g - g_prev;
        const T ahead = g + keep2 * change;
        m = keep1 * m + rise1 * g;
        v = keep2 * v + rise2 * change;
        n = keep3 * n + rise3 * ahead * ahead;
        g_prev = g;
        p = (p - (rate * m + change_rate * v) / (sqrt(n) + eps)) * shrink;
    }
};

FO_RULE(Adan)

}  // namespace fo::FO_TARGET
