// AggMo, aggregated momentum: the average of the steps of three velocities with different decay rates.
// Lucas, Sun, Zemel & Grosse, 2019, arXiv:1804.00325
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct AggMo {
    static constexpr const char* name = "aggmo";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "beta3"};
    static constexpr std::array state{"v1", "v2", "v3"};

    T step_size, beta1, beta2, beta3;

    FO_HD AggMo(const Clock&, double lr, double beta1, double beta2, double beta3)
        : step_size(T(lr / 3)), beta1(decay_rate<T>(beta1)), beta2(decay_rate<T>(beta2)), beta3(decay_rate<T>(beta3)) {}

    FO_HD T step(Unread, T g, T& v1, T& v2, T& v3) const {
        v1 = beta1 * v1 + g;
        v2 = beta2 * v2 + g;
        v3 = beta3 * v3 + g;
        return step_size * (v1 + v2 + v3);
    }
};

FO_RULE(AggMo)

}  // namespace fo::FO_TARGET
