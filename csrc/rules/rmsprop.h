// RMSprop: the gradient over the root of a running mean of its square, optionally centred and with momentum.
// Tieleman & Hinton, 2012, Coursera "Neural Networks for Machine Learning", lecture 6.5; Graves, 2013, arXiv:1308.0850
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Rmsprop {
    static constexpr const char* name = "rmsprop";
    static constexpr std::array hyper{"lr", "alpha", "eps", "eps_root", "momentum", "lr_inside"};
    static constexpr std::array state{"s"};

    T lr, keep, fresh, eps, eps_root, momentum, inside, outside;

    // With momentum the learning rate stands either before its buffer or inside it.
    FO_HD Rmsprop(const Clock&, double lr, double alpha, double eps, double eps_root, double momentum, double lr_inside)
        : lr(T(lr)),
          keep(decay<T>(alpha)),
          fresh(rise(keep)),
          eps(T(eps)),
          eps_root(T(eps_root)),
          momentum(T(momentum)),
          inside(T(lr_inside != 0 ? lr : 1)),
          outside(T(lr_inside != 0 ? 1 : lr)) {}

    FO_HD T scale(T g, T& s) const {
        s = keep * s + fresh * g * g;
        return sqrt(s + eps_root) + eps;
    }

    // The variance is never negative; its rounded difference can be, and the root of that would be NaN.
    FO_HD T scale(T g, T& s, T& g_avg) const {
        s = keep * s + fresh * g * g;
        g_avg = keep * g_avg + fresh * g;
        return sqrt(at_least(s - g_avg * g_avg, T(0)) + eps_root) + eps;
    }

    FO_HD void push(T& p, T step, T& b) const {
        b = momentum * b + inside * step;
        p -= outside * b;
    }

    FO_HD void operator()(T& p, T g, T& s) const { p -= lr * g / scale(g, s); }
};

template <class T>
struct RmspropCentered : Rmsprop<T> {
    static constexpr const char* name = "rmsprop_centered";
    static constexpr std::array state{"s", "g_avg"};

    using Rmsprop<T>::Rmsprop;

    FO_HD void operator()(T& p, T g, T& s, T& g_avg) const { p -= this->lr * g / this->scale(g, s, g_avg); }
};

template <class T>
struct RmspropMomentum : Rmsprop<T> {
    static constexpr const char* name = "rmsprop_momentum";
    static constexpr std::array state{"s", "b"};

    using Rmsprop<T>::Rmsprop;

    FO_HD void operator()(T& p, T g, T& s, T& b) const { this->push(p, g / this->scale(g, s), b); }
};

template <class T>
struct RmspropCenteredMomentum : Rmsprop<T> {
    static constexpr const char* name = "rmsprop_centered_momentum";
    static constexpr std::array state{"s", "g_avg", "b"};

    using Rmsprop<T>::Rmsprop;

    FO_HD void operator()(T& p, T g, T& s, T& g_avg, T& b) const { this->push(p, g / this->scale(g, s, g_avg), b); }
};

FO_RULE(Rmsprop)
FO_RULE(RmspropCentered)
FO_RULE(RmspropMomentum)
FO_RULE(RmspropCenteredMomentum)

}  // namespace fo::FO_TARGET
