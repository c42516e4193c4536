// RMSprop: the gradient over the square root of a moving average of its square, optionally centered or with momentum.
// Tieleman & Hinton, 2012, Coursera "Neural Networks for Machine Learning", lecture 6.5; Graves, 2013, arXiv:1308.0850
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct RMSprop {
    static constexpr const char* name = "rmsprop";
    static constexpr std::array hyper{"lr", "alpha", "eps", "eps_root", "momentum", "lr_inside", "bias_correction"};
    static constexpr std::array state{"s"};

    Ema<T> mean;
    T lr, eps, eps_root, momentum, buffer_lr, step_lr, square_scale;

    // With momentum the learning rate multiplies either the terms of the buffer or the buffer.  A bias correction is
    // folded into the constants, as in adam.h: only the square of the centered mean needs a factor of its own.
    FO_HD RMSprop(const Clock& clock, double lr, double alpha, double eps, double eps_root, double momentum,
                  double lr_inside, double bias_correction)
        : mean(alpha), momentum(T(momentum)), step_lr(T(lr_inside != 0 ? 1 : lr)) {
        const double correction = bias_correction != 0 ? mean.bias_correction(clock) : 1;
        const double root = sqrt(correction);
        this->lr = T(lr * root);
        this->eps = T(eps * root);
        this->eps_root = T(eps_root * correction);
        buffer_lr = T(lr_inside != 0 ? lr * root : root);
        square_scale = T(1 / correction);
    }

    FO_HD T denominator(T g, T& s) const {
        s = mean.of_square(s, g);
        return sqrt(s + eps_root) + eps;
    }

    // The variance s - g_avg^2 can become negative by rounding, and its square root NaN.
    FO_HD T centered_denominator(T g, T& s, T& g_avg) const {
        s = mean.of_square(s, g);
        g_avg = mean(g_avg, g);
        return sqrt(at_least(s - square_scale * g_avg * g_avg, T(0)) + eps_root) + eps;
    }

    FO_HD T momentum_step(T normalized, T& b) const {
        b = momentum * b + buffer_lr * normalized;
        return step_lr * b;
    }

    FO_HD T step(Unread, T g, T& s) const { return lr * g / denominator(g, s); }
};

template <class T>
struct RMSpropCentered : RMSprop<T> {
    static constexpr const char* name = "rmsprop_centered";
    static constexpr std::array state{"s", "g_avg"};

    using RMSprop<T>::RMSprop;

    FO_HD T step(Unread, T g, T& s, T& g_avg) const { return this->lr * g / this->centered_denominator(g, s, g_avg); }
};

template <class T>
struct RMSpropMomentum : RMSprop<T> {
    static constexpr const char* name = "rmsprop_momentum";
    static constexpr std::array state{"s", "b"};

    using RMSprop<T>::RMSprop;

    FO_HD T step(Unread, T g, T& s, T& b) const { return this->momentum_step(g / this->denominator(g, s), b); }
};

template <class T>
struct RMSpropCenteredMomentum : RMSprop<T> {
    static constexpr const char* name = "rmsprop_centered_momentum";
    static constexpr std::array state{"s", "g_avg", "b"};

    using RMSprop<T>::RMSprop;

    FO_HD T step(Unread, T g, T& s, T& g_avg, T& b) const {
        return this->momentum_step(g / this->centered_denominator(g, s, g_avg), b);
    }
};

FO_RULE(RMSprop)
FO_RULE(RMSpropCentered)
FO_RULE(RMSpropMomentum)
FO_RULE(RMSpropCenteredMomentum)

}  // namespace fo::FO_TARGET
