// What happens to p and g before and after a rule, in this order, each operation rounded once:
//     g = grad_multiplier*g                    inverse loss scale; negative to maximize
//     g = max(min(g, clip_value), -clip_value)
//     g = clip*g                               clip factor from the norms of the gradient so far
//     g = g + l1*sign(p)
//     g = g + weight_decay*p                   coupled weight decay
//     p = p - decay*p                          decoupled weight decay
//     the rule
//     p = p + scale*step                       cautious: where step and gradient agree; elsewhere p stays
//     p = p - cautious_decay*p                 of the p before the rule: where step and p agree
//     p = max(min(p, high), low)
//     p is rounded and stored in a format of 16 bits as well
//     average = average + weight*(p - average) moving average of the parameter
// In every kFlushInterval-th step subnormal numbers in state and average then become zeros of their sign.
#pragma once

#include "rule.h"
#include "rule_traits.h"
#include "step.h"

#include <array>
#include <type_traits>

namespace fo::FO_TARGET {

// The weighted mean of an average and a new value.  The smaller weight is a factor of their difference: it keeps its
// digits however small it is, and a weight of 0 or 1 and the mean of equal values are exact.
template <class T>
struct Average {
    T nears_new, weight;

    FO_HD explicit Average(double new_weight)
        : nears_new(T(new_weight > 0.5)), weight(T(new_weight > 0.5 ? 1 - new_weight : new_weight)) {}

    FO_HD T operator()(T average, T x) const {
        const T near = nears_new != T(0) ? x : average, far = nears_new != T(0) ? average : x;
        const T mean = near + weight * (far - near);
        return weight != T(0) ? mean : near;
    }
};

// A disabled stage multiplies by 1 or clamps at infinity, which is exact.  Adding a zero is not, so l1 and weight decay
// are selected, by numbers of type T: GCC does not vectorise a selection by bool together with float data.
template <class T>
struct Prepare {
    bool changes_gradient, shrinks, averages, flushes;
    T grad_multiplier, bound, clip, has_l1, l1, has_weight_decay, weight_decay, decay;
    Average<T> averaged;

    FO_HD Prepare(const StepConstants& constants, const Gradient& gradient)
        : changes_gradient(constants.grad_multiplier != 1 || constants.clip_value < INFINITY || gradient.clip != 1 ||
                           constants.l1 != 0 || constants.weight_decay != 0),
          shrinks(constants.decay != 0),
          averages(constants.average_weight != 0),
          flushes(constants.flushes),
          grad_multiplier(T(constants.grad_multiplier)),
          bound(T(constants.clip_value)),
          clip(T(gradient.clip)),
          has_l1(T(constants.l1 != 0)),
          l1(T(constants.l1)),
          has_weight_decay(T(constants.weight_decay != 0)),
          weight_decay(T(constants.weight_decay)),
          decay(T(constants.decay)),
          averaged(constants.average_weight) {}

    FO_HD T scaled(T g) const { return grad_multiplier * g; }

    // The gradient whose norm is taken.
    FO_HD T bounded(T g) const { return clamp(scaled(g), -bound, bound); }

    FO_HD T gradient(T g, T p) const {
        const T clipped = clip * bounded(g);
        const T penalized = clipped + l1 * sign(p);
        const T before_decay = has_l1 != T(0) ? penalized : clipped;
        const T decayed = before_decay + weight_decay * p;
        return has_weight_decay != T(0) ? decayed : before_decay;
    }

    FO_HD T parameter(T p) const { return shrink(p, decay); }
};

// What happens to p after a rule, except for averages.
template <class T>
struct Finish {
    bool is_active, masks;  // is_active: not only a copy is made
    T is_cautious, scale, decay, low, high;

    FO_HD Finish(const StepConstants& constants, const Gradient& gradient)
        : is_active(constants.masks() || constants.bounds_parameter()),
          masks(constants.masks()),
          is_cautious(T(constants.cautious)),
          scale(T(gradient.step_scale)),
          decay(T(constants.cautious_decay)),
          low(T(constants.low)),
          high(T(constants.high)) {}

    // What a rule changed: it was applied to 0 if kFromZero, else to p.
    template <bool kFromZero>
    FO_HD static T change(T p, T moved) {
        return kFromZero ? moved : moved - p;
    }

    // -1 where the step goes against the gradient, as it should.  A product of the numbers could underflow.
    FO_HD static T direction(T change, T g) { return sign(change) * sign(g); }

    // The new parameter.  A change that is NaN stays one.
    template <bool kFromZero>
    FO_HD T masked(T p, T moved, T g) const {
        const T change = Finish::change<kFromZero>(p, moved);
        const T unmasked = kFromZero ? p + change : moved;
        const T scaled = p + scale * change;
        const T agreeing = direction(change, g) >= T(0) ? p : scaled;
        const T next = is_cautious != T(0) ? agreeing : unmasked;
        const T decayed = next - decay * p;
        return direction(change, p) > T(0) || decay == T(0) ? next : decayed;
    }

    FO_HD T bounded(T p) const { return clamp(p, low, high); }
};

// A rule with the preparation of its element.
template <class R, class T>
struct Prepared {
    static constexpr auto& state = R::state;

    R rule;
    Prepare<T> prepare;

    template <class... S>
        requires std::is_invocable_v<UpdateType<R>, T&, T, S&...>
    FO_HD void operator()(T& p, T g, S&... s) const {
        const T prepared = prepare.gradient(g, p);
        p = prepare.parameter(p);
        apply_rule(rule, p, prepared, s...);
    }
};

template <NormType kType>
FO_HD inline double norm_term(double x) {
    return kType == NormType::kTwo ? x * x : abs(x);
}

// Terms of a gradient's norm: its square or absolute value, and one that is NaN where the gradient is not finite.
inline constexpr int kGradientTerms = 2;

// With kScaled the factor `clip` is square_scale of reduce.h.
template <NormType kType, bool kScaled, class T>
FO_HD inline std::array<double, kGradientTerms> gradient_terms(const Prepare<T>& prepare, T g) {
    const T scaled = prepare.scaled(g);
    const T nonfinite = scaled - scaled;  // 0 for a finite number, else NaN
    const T bounded = prepare.bounded(g);
    const double x(kScaled ? prepare.clip * bounded : bounded);
    return {norm_term<kType>(x), double(nonfinite)};
}

}  // namespace fo::FO_TARGET
