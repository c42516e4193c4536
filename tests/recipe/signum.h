// The recipe's worked example: the sign of a running mean of the gradient.
// Bernstein et al., 2018, arXiv:1802.04434
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct RecipeSignum {
    static constexpr const char* name = "recipe_signum";
    static constexpr std::array hyper{"lr", "beta"};
    static constexpr std::array state{"m"};

    T lr, keep, fresh;

    FO_HD RecipeSignum(const Clock&, double lr, double beta) : lr(T(lr)), keep(decay<T>(beta)), fresh(rise(keep)) {}

    FO_HD void operator()(T& p, T g, T& m) const {
        m = keep * m + fresh * g;
        p -= lr * sign(m);
    }
};

FO_RULE(RecipeSignum)

}  // namespace fo::FO_TARGET
