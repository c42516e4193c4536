// FTRL-proximal: follows the regularised leader, and so keeps parameters at exactly zero.
// McMahan et al., 2013, doi:10.1145/2487575.2488200
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Ftrl {
    static constexpr const char* name = "ftrl";
    static constexpr std::array hyper{"lr",           "beta",   "l1_regularization", "l2_regularization",
                                      "l2_shrinkage", "half_l2"};
    static constexpr std::array state{"n", "z"};

    T rate, inverse, l1, offset, shrink, flat;

    // The fraction is the paper's, both halves times the learning rate.
    FO_HD Ftrl(const Clock&, double lr, double beta, double l1, double l2, double shrinkage, double half_l2)
        : rate(T(lr)), l1(T(l1)) {
        const bool rests = rate == T(0);
        inverse = T(rests ? 0 : 1 / lr);
        flat = rests ? T(INFINITY) : T(0);
        const double slope = half_l2 != 0 ? 1 : 2;
        offset = T(beta + slope * l2 * lr);
        shrink = T(slope * shrinkage);
    }

    FO_HD void operator()(T& p, T g, T& n, T& z) const {
        const T before = sqrt(n);
        n = n + g * g;
        const T root = sqrt(n);
        z = z + (g + shrink * p - inverse * (root - before) * p);
        const T curvature = root + offset;
        const T clipped = within(z, -l1, l1);
        // Without curvature there has been no gradient yet, and no minimum but everywhere.
        p = curvature <= flat ? p : rate * (clipped - z) / curvature;
    }
};

FO_RULE(Ftrl)

}  // namespace fo::FO_TARGET
