// What both loops do with a rule, whichever way they go over the elements.
#pragma once

#include "prepare.h"
#include "rules.h"

#include <array>
#include <type_traits>
#include <utility>

namespace fo::FO_TARGET {

// Whether f writes its K-th state: not where it takes that by value or const reference.
template <std::size_t K, class T, class F, std::size_t... S>
FO_HD constexpr bool writes(const F&, std::index_sequence<S...>) {
    return access_at<F, T, K + 2>(std::make_index_sequence<sizeof...(S) + 2>{}) == Access::kWrite;
}

// A rule with what happens to its element before it.
template <class R, class T>
struct Prepared {
    static constexpr auto& state = R::state;

    R rule;
    Prepare<T> prepare;

    template <class... S>
        requires std::is_invocable_v<const R&, T&, T, S&...>
    FO_HD void operator()(T& p, T g, S&... s) const {
        const T ready = prepare.gradient(g, p);
        p = prepare.parameter(p);
        rule(p, ready, s...);
    }
};

// A rule's pass before the other: the terms of its sums.
template <class R>
struct ReduceTerms {
    R rule;

    template <class T, class... S>
        requires requires(const R& r, T x, S&... s) { r.reduce_terms(x, x, s...); }
    FO_HD auto operator()(T p, T g, S&... s) const {
        return rule.reduce_terms(p, g, s...);
    }
};

// What a gradient's norm is made of: its square, and a term that is NaN where it is not finite.
inline constexpr int kGradientTerms = 2;

template <class T>
FO_HD inline std::array<double, kGradientTerms> gradient_terms(const Prepare<T>& prepare, T g) {
    const T scaled = prepare.scaled(g);
    const T found_nonfinite = scaled - scaled;  // 0, but NaN for an infinity or a NaN
    const double bounded(prepare.bounded(g));
    return {bounded * bounded, double(found_nonfinite)};
}

}  // namespace fo::FO_TARGET
