// Example of CONTRIBUTING's recipe.  AdaMod: Adam whose step sizes are bounded by their own moving average.
// Ding, Ren, Luo & Sun, 2019, arXiv:1910.12249
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct RecipeAdaMod {
    static constexpr const char* name = "recipe_adamod";
    static constexpr std::array hyper{"lr", "beta1", "beta2", "beta3", "eps"};
    static constexpr std::array state{"m", "v", "s"};

    Ema<T> mean1, mean2, mean3;
    T step_size, eps;

    FO_HD RecipeAdaMod(const Clock& clock, double lr, double beta1, double beta2, double beta3, double eps)
        : mean1(beta1),
          mean2(beta2),
          mean3(beta3),
          step_size(T(lr * sqrt(mean2.bias_correction(clock)) / mean1.bias_correction(clock))),
          eps(T(eps)) {}

    FO_HD T step(Unread, T g, T& m, T& v, T& s) const {
        m = mean1(m, g);
        v = mean2.of_square(v, g);
        const T size = step_size / (sqrt(v) + eps);
        s = mean3(s, size);
        return min(size, s) * m;
    }
};

FO_RULE(RecipeAdaMod)

}  // namespace fo::FO_TARGET
