// Adam-mini: Adam with one second moment for each block of a parameter, from which engines compute `factor`.
// Zhang et al., 2024, arXiv:2406.16793
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct AdamMini {
    static constexpr const char* name = "adam_mini";
    static constexpr bool broadcasts = true;
    static constexpr std::array hyper{"lr", "beta1"};
    static constexpr std::array state{"m", "factor"};

    Ema<T> mean1;
    T step_size;

    FO_HD AdamMini(const Clock& clock, double lr, double beta1)
        : mean1(beta1), step_size(T(lr / mean1.bias_correction(clock))) {}

    FO_HD T step(Unread, T g, T& m, T factor) const {
        m = mean1(m, g);
        return step_size * (m * factor);
    }
};

FO_RULE(AdamMini)

}  // namespace fo::FO_TARGET
