// What happens to p and g before the rule, in this order, each rounded once:
//     g = -g                    maximize
//     g = g + weight_decay*p    coupled decay
//     p = keep*p                decoupled decay
#pragma once

#include "call.h"
#include "rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Prepare {
    bool maximize, decays, shrinks;
    T weight_decay, keep;

    FO_HD explicit Prepare(const Scalars& scalars)
        : maximize(scalars.maximize),
          decays(scalars.weight_decay != 0),
          shrinks(scalars.keep != 1),
          weight_decay(T(scalars.weight_decay)),
          keep(T(scalars.keep)) {}

    FO_HD bool changes_gradient() const { return maximize || decays; }

    FO_HD T negated(T g) const { return -g; }
    FO_HD T decayed(T g, T p) const { return g + weight_decay * p; }
    FO_HD T shrunk(T p) const { return keep * p; }
};

}  // namespace fo::FO_TARGET
