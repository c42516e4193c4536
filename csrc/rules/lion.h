// Lion: the sign of an average of the gradient and of its moving average.
// Chen et al., 2023, arXiv:2302.06675
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Lion {
    static constexpr const char* name = "lion";
    static constexpr std::array hyper{"lr", "beta1", "beta2"};
    static constexpr std::array state{"m"};

    Ema<T> mean1, mean2;
    T lr;

    FO_HD Lion(const Clock&, double lr, double beta1, double beta2) : mean1(beta1), mean2(beta2), lr(T(lr)) {}

    FO_HD T step(Unread, T g, T& m) const {
        const T d = lr * sign(mean1(m, g));
        m = mean2(m, g);
        return d;
    }
};

FO_RULE(Lion)

}  // namespace fo::FO_TARGET
