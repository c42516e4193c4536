// Momentum in the three notations of the textbooks, each with a Nesterov step.  They differ only in three constants:
//     v = keep*v + fresh*g,    p += move*v
// Polyak, 1964, doi:10.1016/0041-5553(64)90137-5; Nesterov, 1983
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Velocity {
    static constexpr std::array hyper{"lr", "momentum"};
    static constexpr std::array state{"v"};

    T keep, fresh, move;

    FO_HD void operator()(T& p, T g, T& v) const {
        v = keep * v + fresh * g;
        p += move * v;
    }
};

// v = momentum*v - lr*g;  p += v
template <class T>
struct MomentumVelocity : Velocity<T> {
    static constexpr const char* name = "momentum_velocity";

    FO_HD MomentumVelocity(const Clock&, double lr, double momentum) : Velocity<T>{T(momentum), T(-lr), T(1)} {}
};

// v = momentum*v + g;  p -= lr*v
template <class T>
struct MomentumHeavyBall : Velocity<T> {
    static constexpr const char* name = "momentum_heavy_ball";

    FO_HD MomentumHeavyBall(const Clock&, double lr, double momentum) : Velocity<T>{T(momentum), T(1), T(-lr)} {}
};

// v = momentum*v + (1-momentum)*g;  p -= lr*v
template <class T>
struct MomentumEma : Velocity<T> {
    static constexpr const char* name = "momentum_ema";

    FO_HD MomentumEma(const Clock&, double lr, double momentum)
        : Velocity<T>{decay<T>(momentum), rise(decay<T>(momentum)), T(-lr)} {}
};

// The step of the next velocity, were the gradient to stay the same.
template <class Form, class T>
struct Lookahead : Form {
    using Form::Form;

    FO_HD void operator()(T& p, T g, T& v) const {
        const T push = this->fresh * g;
        v = this->keep * v + push;
        p += this->move * (this->keep * v + push);
    }
};

template <class T>
struct MomentumVelocityNesterov : Lookahead<MomentumVelocity<T>, T> {
    static constexpr const char* name = "momentum_velocity_nesterov";
    using Lookahead<MomentumVelocity<T>, T>::Lookahead;
};

template <class T>
struct MomentumHeavyBallNesterov : Lookahead<MomentumHeavyBall<T>, T> {
    static constexpr const char* name = "momentum_heavy_ball_nesterov";
    using Lookahead<MomentumHeavyBall<T>, T>::Lookahead;
};

template <class T>
struct MomentumEmaNesterov : Lookahead<MomentumEma<T>, T> {
    static constexpr const char* name = "momentum_ema_nesterov";
    using Lookahead<MomentumEma<T>, T>::Lookahead;
};

FO_RULE(MomentumVelocity)
FO_RULE(MomentumHeavyBall)
FO_RULE(MomentumEma)
FO_RULE(MomentumVelocityNesterov)
FO_RULE(MomentumHeavyBallNesterov)
FO_RULE(MomentumEmaNesterov)

}  // namespace fo::FO_TARGET
