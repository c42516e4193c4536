// LARS: momentum whose learning rate is each array's own, by the ratio of its norm to its gradient's.
// You, Gitman & Ginsburg, 2017, arXiv:1708.03888
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Lars {
    static constexpr const char* name = "lars";
    static constexpr std::array hyper{"lr",           "momentum",  "trust_coefficient", "eps",
                                      "weight_decay", "decoupled", "decayed_norm",      "nesterov"};
    static constexpr std::array state{"v"};
    static constexpr int sums = 2;

    double lr, trust, eps, decay;
    T momentum, weight_decay, keep, rate = 0;
    bool decoupled, decayed_norm, nesterov;

    FO_HD Lars(const Clock&, double lr, double momentum, double trust, double eps, double weight_decay,
               double decoupled, double decayed_norm, double nesterov)
        : lr(lr),
          trust(trust),
          eps(eps),
          decay(decoupled != 0 || decayed_norm != 0 ? 0 : weight_decay),
          momentum(T(momentum)),
          weight_decay(T(weight_decay)),
          keep(T(decoupled != 0 ? 1 - lr * weight_decay : 1)),
          decoupled(decoupled != 0),
          decayed_norm(decayed_norm != 0),
          nesterov(nesterov != 0) {}

    // With decoupled decay the gradient has none.
    FO_HD T decayed(T g, T p) const { return decoupled ? g : g + weight_decay * p; }

    // The squares of the parameter and of the gradient, the latter with its decay if that is to count.
    FO_HD std::array<double, sums> reduce_terms(T p, T g, Unread) const {
        const T shrunk = keep * p;
        const double x(shrunk), y(decayed_norm ? decayed(g, shrunk) : g);
        return {x * x, y * y};
    }

    FO_HD void finalize(const double* squares, double* const*) {
        const double p = sqrt(squares[0]), g = sqrt(squares[1]);
        const double beside = decay != 0 ? decay * p : 0;  // and no NaN of an infinite norm
        const double ratio = p > 0 && g > 0 ? trust * p / (g + beside + eps) : 1;
        rate = T(lr * ratio);
    }

    FO_HD void operator()(T& p, T g, T& v) const {
        const T shrunk = keep * p;
        const T push = rate * decayed(g, shrunk);
        v = momentum * v + push;
        p = shrunk - (nesterov ? momentum * v + push : v);
    }
};

FO_RULE(Lars)

}  // namespace fo::FO_TARGET
