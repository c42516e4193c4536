// RAdam: Adam whose step is rectified for the variance of its second mean, and plain momentum while that has none.
// Liu et al., 2020, arXiv:1908.03265
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Radam {
    static constexpr const char* name = "radam";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "threshold", "eps_hat"};
    static constexpr std::array state{"m", "v"};

    T keep1, rise1, keep2, rise2, rate, eps;
    bool finalizes;

    FO_HD Radam(const Clock& clock, double lr, double beta1, double beta2, double eps, double threshold, double eps_hat)
        : keep1(decay<T>(beta1)), rise1(rise(keep1)), keep2(decay<T>(beta2)), rise2(rise(keep2)) {
        const double bias2 = clock.bias(double(keep2));
        const double longest = 2 / (1 - double(keep2)) - 1;
        const double length = longest - 2 * double(clock.t) * clock.power(double(keep2)) / bias2;
        finalizes = length > threshold;
        double step = lr / clock.bias(double(keep1));
        if (finalizes)
            step *=
                sqrt(bias2) * sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length));
        rate = T(step);
        this->eps = T(eps_hat != 0 ? eps : eps * sqrt(bias2));
    }

    FO_HD void operator()(T& p, T g, T& m, T& v) const {
        m = keep1 * m + rise1 * g;
        v = keep2 * v + rise2 * g * g;
        const T step = rate * m;
        p -= finalizes ? step / (sqrt(v) + eps) : step;
    }
};

FO_RULE(Radam)

}  // namespace fo::FO_TARGET
