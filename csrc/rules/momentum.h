// Momentum in the three notations of the textbooks, each with a Nesterov step.  They differ only in three constants:
//     v = momentum*v + gradient_weight*g;  p -= step_size*v
// Polyak, 1964, doi:10.1016/0041-5553(64)90137-5; Nesterov, 1983
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct HeavyBall {
    static constexpr std::array hyper{"lr", "momentum"};
    static constexpr std::array state{"v"};

    T momentum, gradient_weight, step_size;

    FO_HD T step(Unread, T g, T& v) const {
        v = momentum * v + gradient_weight * g;
        return step_size * v;
    }
};

// v = momentum*v - lr*g;  p += v
template <class T>
struct MomentumVelocity : HeavyBall<T> {
    static constexpr const char* name = "momentum_velocity";

    FO_HD MomentumVelocity(const Clock&, double lr, double momentum) : HeavyBall<T>{T(momentum), T(-lr), T(-1)} {}
};

// v = momentum*v + g;  p -= lr*v
template <class T>
struct MomentumHeavyBall : HeavyBall<T> {
    static constexpr const char* name = "momentum_heavy_ball";

    FO_HD MomentumHeavyBall(const Clock&, double lr, double momentum) : HeavyBall<T>{T(momentum), T(1), T(lr)} {}
};

// v = momentum*v + (1-momentum)*g;  p -= lr*v
template <class T>
struct MomentumEma : HeavyBall<T> {
    static constexpr const char* name = "momentum_ema";

    FO_HD MomentumEma(const Clock&, double lr, double momentum)
        : HeavyBall<T>{Ema<T>(momentum).beta, Ema<T>(momentum).one_minus_beta, T(lr)} {}
};

// Nesterov's step: the step of the next velocity for an unchanged gradient.
template <class Form, class T>
struct Nesterov : Form {
    using Form::Form;

    FO_HD T step(Unread, T g, T& v) const {
        const T weighted = this->gradient_weight * g;
        v = this->momentum * v + weighted;
        return this->step_size * (this->momentum * v + weighted);
    }
};

template <class T>
struct MomentumVelocityNesterov : Nesterov<MomentumVelocity<T>, T> {
    static constexpr const char* name = "momentum_velocity_nesterov";
    using Nesterov<MomentumVelocity<T>, T>::Nesterov;
};

template <class T>
struct MomentumHeavyBallNesterov : Nesterov<MomentumHeavyBall<T>, T> {
    static constexpr const char* name = "momentum_heavy_ball_nesterov";
    using Nesterov<MomentumHeavyBall<T>, T>::Nesterov;
};

template <class T>
struct MomentumEmaNesterov : Nesterov<MomentumEma<T>, T> {
    static constexpr const char* name = "momentum_ema_nesterov";
    using Nesterov<MomentumEma<T>, T>::Nesterov;
};

FO_RULE(MomentumVelocity)
FO_RULE(MomentumHeavyBall)
FO_RULE(MomentumEma)
FO_RULE(MomentumVelocityNesterov)
FO_RULE(MomentumHeavyBallNesterov)
FO_RULE(MomentumEmaNesterov)

}  // namespace fo::FO_TARGET
