// FTRL-proximal, follow the regularised leader: parameters become exactly zero under the L1 penalty.
// McMahan et al., 2013, doi:10.1145/2487575.2488200
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct FTRL {
    static constexpr const char* name = "ftrl";
    static constexpr std::array hyper{"lr",           "beta",   "l1_regularization", "l2_regularization",
                                      "l2_shrinkage", "half_l2"};
    static constexpr std::array state{"n", "z"};

    T lr, inverse_lr, l1, curvature_offset, shrinkage, min_curvature;

    // p = (clamp(z, -l1, l1) - z) / ((beta + sqrt(n))/lr + l2), with numerator and denominator multiplied by lr.
    // With lr = 0 an infinite min_curvature leaves p unchanged.
    FO_HD FTRL(const Clock&, double lr, double beta, double l1, double l2, double l2_shrinkage, double half_l2)
        : lr(T(lr)), l1(T(l1)) {
        const bool is_zero = this->lr == T(0);
        inverse_lr = T(is_zero ? 0 : 1 / lr);
        min_curvature = is_zero ? T(INFINITY) : T(0);
        const double l2_scale = half_l2 != 0 ? 1 : 2;
        curvature_offset = T(beta + l2_scale * l2 * lr);
        shrinkage = T(l2_scale * l2_shrinkage);
    }

    FO_HD void operator()(T& p, T g, T& n, T& z) const {
        const T previous_root = sqrt(n);
        n = n + g * g;
        const T root = sqrt(n);
        z = z + (g + shrinkage * p - inverse_lr * (root - previous_root) * p);
        const T curvature = root + curvature_offset;
        const T clamped = clamp(z, -l1, l1);
        // Zero curvature means that every gradient so far was zero: the minimum is undefined (0/0).
        p = curvature <= min_curvature ? p : lr * (clamped - z) / curvature;
    }
};

FO_RULE(FTRL)

}  // namespace fo::FO_TARGET
