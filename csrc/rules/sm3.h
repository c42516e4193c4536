// SM3: Adagrad whose sum of squares is bounded by one number for each row and one for each column.
// Anil et al., 2019, arXiv:1901.11150 (SM3-II)
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct SM3Cover {
    static constexpr bool broadcasts = true;

    FO_HD T covered(T g, T r, T c) const { return min(r, c) + g * g; }
};

// Writes the bounds of this step, of which the state takes the maxima.
template <class T>
struct SM3Bound : SM3Cover<T> {
    static constexpr const char* name = "sm3_bound";
    static constexpr std::array<const char*, 0> hyper{};
    static constexpr std::array state{"r", "c", "x"};

    FO_HD explicit SM3Bound(const Clock&) {}

    FO_HD void operator()(Unread, T g, T r, T c, T& x) const { x = this->covered(g, r, c); }
};

template <class T>
struct SM3 : SM3Cover<T> {
    static constexpr const char* name = "sm3";
    static constexpr std::array hyper{"lr"};
    static constexpr std::array state{"r", "c"};

    T lr;

    FO_HD SM3(const Clock&, double lr) : lr(T(lr)) {}

    // An element whose gradients were all zero stays where it is.
    FO_HD T normalized(T g, T r, T c) const {
        const T bound = this->covered(g, r, c);
        return bound == T(0) ? T(0) : g / sqrt(bound);
    }

    FO_HD T step(Unread, T g, T r, T c) const { return lr * normalized(g, r, c); }
};

template <class T>
struct SM3Momentum : SM3<T> {
    static constexpr const char* name = "sm3_momentum";
    static constexpr std::array hyper{"lr", "momentum"};
    static constexpr std::array state{"m", "r", "c"};

    Ema<T> mean;

    FO_HD SM3Momentum(const Clock& clock, double lr, double momentum) : SM3<T>(clock, lr), mean(momentum) {}

    FO_HD T step(Unread, T g, T& m, T r, T c) const {
        m = mean(m, this->normalized(g, r, c));
        return this->lr * m;
    }
};

FO_RULE(SM3Bound)
FO_RULE(SM3)
FO_RULE(SM3Momentum)

}  // namespace fo::FO_TARGET
