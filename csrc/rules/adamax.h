// Adamax: Adam with an exponentially weighted maximum of the gradient in the denominator.
// Kingma & Ba, 2015, arXiv:1412.6980, section 7.1
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Adamax {
    static constexpr const char* name = "adamax";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "eps", "eps_outside"};
    static constexpr std::array state{"m", "u"};

    Ema<T> mean1;
    T beta2, step_size, inner_eps, outer_eps;

    FO_HD Adamax(const Clock& clock, double lr, double beta1, double beta2, double eps, double eps_outside)
        : mean1(beta1),
          beta2(decay_rate<T>(beta2)),
          step_size(T(lr / mean1.bias_correction(clock))),
          inner_eps(T(eps_outside != 0 ? 0 : eps)),
          outer_eps(T(eps_outside != 0 ? eps : 0)) {}

    FO_HD T step(Unread, T g, T& m, T& u) const {
        m = mean1(m, g);
        u = max(beta2 * u, abs(g) + inner_eps);
        return step_size * m / (u + outer_eps);
    }
};

FO_RULE(Adamax)

}  // namespace fo::FO_TARGET
