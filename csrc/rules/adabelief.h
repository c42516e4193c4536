// AdaBelief: Adam with the mean squared distance of the gradient from its own mean in the denominator.
// Zhuang et al., 2020, arXiv:2010.07468
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct AdaBelief {
    static constexpr const char* name = "adabelief";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "eps_root", "previous_mean"};
    static constexpr std::array state{"m", "s"};

    T keep1, rise1, keep2, rise2, rate, eps, eps_root, surprise;

    // From the mean before it a gradient differs by 1/beta1 times what it differs by from the mean after it: one kernel
    // for both.  As in Adam the corrections become constants; eps_root is kept in s, and corrected with it.
    FO_HD AdaBelief(const Clock& clock, double lr, double beta1, double beta2, double eps, double eps_root,
                    double previous_mean)
        : keep1(decay<T>(beta1)),
          rise1(rise(keep1)),
          keep2(decay<T>(beta2)),
          rise2(rise(keep2)),
          eps_root(T(eps_root)),
          surprise(previous_mean != 0 ? T(1) : keep1) {
        const double bias1 = clock.bias(double(keep1)), bias2 = clock.bias(double(keep2));
        rate = T(lr * sqrt(bias2) / bias1);
        this->eps = T(eps * sqrt(bias2));
    }

    FO_HD void operator()(T& p, T g, T& m, T& s) const {
        const T d = surprise * (g - m);
        m = keep1 * m + rise1 * g;
        s = keep2 * s + rise2 * d * d + eps_root;
        p -= rate * m / (sqrt(s) + eps);
    }
};

FO_RULE(AdaBelief)

}  // namespace fo::FO_TARGET
