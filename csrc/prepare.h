// What happens to p and g around the rule, in this order, each operation rounded once:
//     g = grad_multiplier*g                            over the loss scale; negative to maximize
//     g = max(min(g, clip), -clip)          clip_value
//     g = clip*g                            what the norms of the gradient, as it is by now, leave of it
//     g = g + l1*sign(p)
//     g = g + weight_decay*p                coupled decay
//     p = keep*p                            decoupled decay
//     the rule
//     average = keep*average + rise*p
#pragma once

#include "rule.h"
#include "step.h"

namespace fo::FO_TARGET {

// What is off multiplies by 1 or bounds at infinity, which changes no bit.  Adding a zero would: so penalty and decay
// are chosen, by numbers of type T, as GCC does not vectorise a choice by a bool beside them.
template <class T>
struct Prepare {
    bool changes_gradient, shrinks, averages;
    T grad_multiplier, bound, clip, penalizes, l1, decays, weight_decay, keep, average_keep, average_rise;

    FO_HD Prepare(const StepConstants& constants, const Gradient& gradient)
        : changes_gradient(constants.grad_multiplier != 1 || constants.clip_value < INFINITY || gradient.clip != 1 ||
                           constants.l1 != 0 || constants.weight_decay != 0),
          shrinks(constants.shrink != 1),
          averages(constants.average_beta != 1),
          grad_multiplier(T(constants.grad_multiplier)),
          bound(T(constants.clip_value)),
          clip(T(gradient.clip)),
          penalizes(T(constants.l1 != 0)),
          l1(T(constants.l1)),
          decays(T(constants.weight_decay != 0)),
          weight_decay(T(constants.weight_decay)),
          keep(T(constants.shrink)),
          average_keep(decay<T>(constants.average_beta)),
          average_rise(rise(average_keep)) {}

    // As the norm sees it.
    FO_HD T bounded(T g) const { return within(scaled(g), -bound, bound); }

    FO_HD T scaled(T g) const { return grad_multiplier * g; }

    FO_HD T gradient(T g, T p) const {
        const T clipped = clip * bounded(g);
        const T penalized = clipped + l1 * sign(p);
        const T before_decay = penalizes != T(0) ? penalized : clipped;
        const T decayed = before_decay + weight_decay * p;
        return decays != T(0) ? decayed : before_decay;
    }

    FO_HD T parameter(T p) const { return keep * p; }
    FO_HD T averaged(T average, T p) const { return average_keep * average + average_rise * p; }
};

}  // namespace fo::FO_TARGET
