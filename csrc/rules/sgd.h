// SGD, stochastic gradient descent, with momentum, dampening and the reformulated Nesterov step.
// Robbins & Monro, 1951, doi:10.1214/aoms/1177729586; Sutskever et al., 2013, proceedings.mlr.press/v28/sutskever13
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct SGD {
    static constexpr const char* name = "sgd";
    static constexpr std::array hyper{"lr"};
    static constexpr std::array<const char*, 0> state{};

    T lr;

    FO_HD SGD(const Clock&, double lr) : lr(T(lr)) {}

    FO_HD T step(Unread, T g) const { return lr * g; }
};

template <class T>
struct SGDMomentum {
    static constexpr const char* name = "sgd_momentum";
    static constexpr std::array hyper{"lr", "momentum", "dampening", "lr_inside", "dampen_first"};
    static constexpr std::array state{"b"};

    T momentum, step_lr, buffer_lr, dampened_lr;
    bool skips_dampening;

    // The learning rate multiplies either the buffer or, with lr_inside, the gradients in it.
    FO_HD SGDMomentum(const Clock& clock, double lr, double momentum, double dampening, double lr_inside,
                      double dampen_first)
        : momentum(T(momentum)),
          step_lr(T(lr_inside != 0 ? 1 : lr)),
          skips_dampening(clock.t == 1 && dampen_first == 0) {
        const double inside = lr_inside != 0 ? lr : 1;
        buffer_lr = T(inside);
        dampened_lr = T(inside * (1 - dampening));
    }

    // In PyTorch's convention the first buffer is the gradient itself, without dampening.
    FO_HD void update_buffer(T g, T& b) const {
        const T dampened = momentum * b + dampened_lr * g;
        b = skips_dampening ? buffer_lr * g : dampened;
    }

    FO_HD T step(Unread, T g, T& b) const {
        update_buffer(g, b);
        return step_lr * b;
    }
};

template <class T>
struct SGDNesterov : SGDMomentum<T> {
    static constexpr const char* name = "sgd_nesterov";

    using SGDMomentum<T>::SGDMomentum;

    FO_HD T step(Unread, T g, T& b) const {
        this->update_buffer(g, b);
        return this->step_lr * (this->buffer_lr * g + this->momentum * b);
    }
};

FO_RULE(SGD)
FO_RULE(SGDMomentum)
FO_RULE(SGDNesterov)

}  // namespace fo::FO_TARGET
