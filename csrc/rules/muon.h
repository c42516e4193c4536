// Muon: momentum whose matrices the array library orthogonalizes.  The first rule writes the matrices to o, the array
// library replaces o, and the second rule takes the step.  Until then no array of the caller's has changed.
// Jordan et al., 2024, https://kellerjordan.github.io/posts/muon
#pragma once

#include "../rule.h"

namespace fo::FO_TARGET {

template <class T>
struct MuonMomentum {
    static constexpr std::array state{"m", "o"};

    T momentum, gradient_weight;

    FO_HD MuonMomentum(double momentum, double is_ema)
        : momentum(is_ema != 0 ? Ema<T>(momentum).beta : T(momentum)),
          gradient_weight(is_ema != 0 ? Ema<T>(momentum).one_minus_beta : T(1)) {}

    FO_HD T next(T m, T g) const { return momentum * m + gradient_weight * g; }
};

// The weights are those of Nesterov's step, or 1 and 0.
template <class T>
struct MuonDirection : MuonMomentum<T> {
    static constexpr const char* name = "muon_direction";
    static constexpr std::array hyper{"momentum", "is_ema", "m_weight", "g_weight"};

    T m_weight, g_weight;

    FO_HD MuonDirection(const Clock&, double momentum, double is_ema, double m_weight, double g_weight)
        : MuonMomentum<T>(momentum, is_ema), m_weight(T(m_weight)), g_weight(T(g_weight)) {}

    FO_HD void operator()(Unread, T g, T m, T& o) const { o = m_weight * this->next(m, g) + g_weight * g; }
};

template <class T>
struct Muon : MuonMomentum<T> {
    static constexpr const char* name = "muon";
    static constexpr std::array hyper{"lr", "momentum", "is_ema"};

    T lr;

    FO_HD Muon(const Clock&, double lr, double momentum, double is_ema)
        : MuonMomentum<T>(momentum, is_ema), lr(T(lr)) {}

    FO_HD T step(Unread, T g, T& m, T o) const {
        m = this->next(m, g);
        return lr * o;
    }
};

FO_RULE(MuonDirection)
FO_RULE(Muon)

}  // namespace fo::FO_TARGET
