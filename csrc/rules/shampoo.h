// Shampoo: the gradient times a root of the inverse of each axis's factor.  The first rule writes the prepared gradient
// to r and its mean to o.  The array library multiplies o by the roots, and the second rule takes the step.  Until then
// no array of the caller's has changed.
// Gupta, Koren & Singer, 2018, arXiv:1802.09568; Shi et al., 2023, arXiv:2309.06497
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct ShampooGradient {
    static constexpr const char* name = "shampoo_gradient";
    static constexpr std::array hyper{"beta1", "m_weight"};
    static constexpr std::array state{"m", "r", "o"};

    Ema<T> mean;
    T m_weight;

    FO_HD ShampooGradient(const Clock&, double beta1, double m_weight) : mean(beta1), m_weight(T(m_weight)) {}

    FO_HD void operator()(Unread, T g, T m, T& r, T& o) const {
        r = g;
        o = m_weight * mean(m, g);
    }
};

template <class T>
struct Shampoo {
    static constexpr const char* name = "shampoo";
    static constexpr std::array hyper{"lr", "beta1"};
    static constexpr std::array state{"m", "r", "o"};

    T lr;
    Ema<T> mean;

    FO_HD Shampoo(const Clock&, double lr, double beta1) : lr(T(lr)), mean(beta1) {}

    FO_HD T step(Unread, Unread, T& m, T r, T o) const {
        m = mean(m, r);
        return lr * o;
    }
};

// With the mean of the squares, or if its rate is 1 their sum, from which the norm of another optimizer's step follows.
template <class T>
struct ShampooGrafted : Shampoo<T> {
    static constexpr const char* name = "shampoo_grafted";
    static constexpr std::array hyper{"lr", "beta1", "grafting_beta2"};
    static constexpr std::array state{"m", "v", "r", "o"};

    T v_kept, v_weight;

    FO_HD ShampooGrafted(const Clock& clock, double lr, double beta1, double grafting_beta2)
        : Shampoo<T>(clock, lr, beta1),
          v_kept(T(grafting_beta2)),
          v_weight(T(grafting_beta2 < 1 ? 1 - grafting_beta2 : 1)) {}

    FO_HD T step(Unread p, Unread g, T& m, T& v, T r, T o) const {
        v = v_kept * v + v_weight * r * r;
        return Shampoo<T>::step(p, g, m, r, o);
    }
};

FO_RULE(ShampooGradient)
FO_RULE(Shampoo)
FO_RULE(ShampooGrafted)

}  // namespace fo::FO_TARGET
