// Signum: the sign of a moving average of the gradient.  Tiger (Su, 2023, kexue.fm/archives/9512) is Signum with
// decoupled weight decay.
// Bernstein et al., 2018, arXiv:1802.04434
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Signum {
    static constexpr const char* name = "signum";
    static constexpr std::array hyper{"lr", "beta"};
    static constexpr std::array state{"m"};

    Ema<T> mean;
    T lr;

    FO_HD Signum(const Clock&, double lr, double beta) : mean(beta), lr(T(lr)) {}

    FO_HD T step(Unread, T g, T& m) const {
        m = mean(m, g);
        return lr * sign(m);
    }
};

FO_RULE(Signum)

}  // namespace fo::FO_TARGET
