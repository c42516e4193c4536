// Prodigy: Adam that estimates its own learning rate from how far the parameters have come.
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
    static constexpr bool reduces_group = true;

    double beta3, eps, d0, d_coef, growth_rate, rate;  // rate: lr with the correction of the means, without d
    T keep1, keep2, keep3, fresh1, fresh2, weight_decay, gain1 = 0, gain2 = 0, gain3 = 0, step = 0, floor = 1, keep = 1;
    bool decoupled, warmup, moves = false;

    FO_HD Prodigy(const Clock& clock, double lr, double beta1, double beta2, double beta3, double eps, double d0,
                  double d_coef, double growth_rate, double warmup, double weight_decay, double bias_correction,
                  double decoupled)
        : beta3(beta3),
          eps(eps),
          d0(d0),
          d_coef(d_coef),
          growth_rate(growth_rate),
          rate(lr),
          keep1(decay<T>(beta1)),
          keep2(decay<T>(beta2)),
          keep3(decay<T>(beta3)),
          fresh1(rise(keep1)),
          fresh2(rise(keep2)),
          weight_decay(T(weight_decay)),
          decoupled(decoupled != 0),
          warmup(warmup != 0) {
        if (bias_correction != 0) rate = lr * sqrt(clock.bias(double(keep2))) / clock.bias(double(keep1));
    }

    // The estimate d of the step before scales what the means take up.
    FO_HD void before_reduce(double* const* own) {
        const double d = *own[0];
        gain1 = T(d * double(fresh1));
        gain2 = T(d * d * double(fresh2));
        gain3 = T(d / d0 * (warmup ? d : d * rate));
    }

    // How far the gradient agrees with the way come, and the sum that it is to be compared with.
    FO_HD std::array<double, sums> reduce_terms(T p, T g, T& m, T& v, T& s, T p0) const {
        const T decayed = decoupled ? g : g + weight_decay * p;
        m = keep1 * m + gain1 * decayed;
        v = keep2 * v + gain2 * decayed * decayed;
        s = keep3 * s + gain3 * decayed;
        return {double(decayed) * double(p0 - p), double(abs(s))};
    }

    FO_HD void finalize(const double* of_group, double* const* own) {
        double &d = *own[0], &d_max = *own[1], &numerator = *own[2];
        numerator = beta3 * numerator + d / d0 * (d * rate) * of_group[0];
        if (of_group[1] == 0) return;  // no gradient so far: nothing moves
        moves = true;
        const double moved = d * rate;
        if (rate > 0) {
            const double estimate = d_coef * numerator / of_group[1];
            if (d == d0 && estimate > d) d = estimate;
            if (estimate > d_max) d_max = estimate;
            d = d * growth_rate < d_max ? d * growth_rate : d_max;
        }
        step = T(moved);
        floor = T(d * eps);
        if (decoupled) keep = T(1 - double(weight_decay) * moved);
    }

    FO_HD void operator()(T& p, Unread, const T& m, const T& v, Unread, Unread) const {
        p = moves ? keep * p - step * m / (sqrt(v) + floor) : p;  // -0 - 0*m may be +0
    }
};

FO_RULE(Prodigy)

}  // namespace fo::FO_TARGET
