// Adagrad: a learning rate for each element that decreases with the sum of its squared gradients.
// Duchi, Hazan & Singer, 2011, jmlr.org/papers/v12/duchi11a
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Adagrad {
    static constexpr const char* name = "adagrad";
    static constexpr std::array hyper{"lr", "eps", "eps_root", "lr_decay"};
    static constexpr std::array state{"s"};

    T step_size, eps, eps_root;

    FO_HD Adagrad(const Clock& clock, double lr, double eps, double eps_root, double lr_decay)
        : step_size(T(lr / (1 + double(clock.t - 1) * lr_decay))), eps(T(eps)), eps_root(T(eps_root)) {}

    FO_HD T step(Unread, T g, T& s) const {
        s += g * g;
        return step_size * g / (sqrt(s + eps_root) + eps);
    }
};

FO_RULE(Adagrad)

}  // namespace fo::FO_TARGET
