// Adadelta: the gradient scaled by the ratio of the root mean squares of past steps and past gradients.
// Zeiler, 2012, arXiv:1212.5701
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct Adadelta {
    static constexpr const char* name = "adadelta";
    static constexpr std::array hyper{"lr", "rho", "eps"};
    static constexpr std::array state{"s", "x"};

    Ema<T> mean;
    T lr, eps;

    FO_HD Adadelta(const Clock&, double lr, double rho, double eps) : mean(rho), lr(T(lr)), eps(T(eps)) {}

    // The paper divides two square roots; the square root of the quotient saves one.
    FO_HD T step(Unread, T g, T& s, T& x) const {
        s = mean.of_square(s, g);
        const T d = sqrt((x + eps) / (s + eps)) * g;
        x = mean.of_square(x, d);
        return lr * d;
    }
};

FO_RULE(Adadelta)

}  // namespace fo::FO_TARGET
