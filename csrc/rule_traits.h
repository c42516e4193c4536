// Properties of a rule that follow from its members and their signatures: how its update is applied, which arrays each
// pass reads and writes, and how many sums it reduces.
//
// A rule has one of two forms.  `T step(p, g, state...) const` returns the step that is subtracted from p; any other
// update is `void operator()(T& p, g, state...) const`.  An argument of type Unread is not read, one taken by value or
// by const reference is read, one of type T& is written as well.
#pragma once

#include "rule.h"
#include "step.h"

#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>

namespace fo::FO_TARGET {

template <class R>
inline constexpr bool kReturnsStep = requires { &R::step; };

template <class R>
inline constexpr bool kHasBeforeReduce = requires { &R::before_reduce; };

template <class R>
inline constexpr bool kFinalizes = requires { &R::finalize; };

// Number of sums over an array that a rule reduces before its update.
template <class R>
inline constexpr int kSums = 0;
template <class R>
    requires requires { R::sums; }
inline constexpr int kSums<R> = R::sums;

// Whether the last state array of a rule has one number for each row, which is an index of the parameter's first axis.
// The rule reduces each row before its update, which takes in the place of that number what `row_factor` returns.
template <class R>
inline constexpr bool kHasRowState = requires { &R::row_factor; };

// Whether state arrays that the rule only reads may be broadcast: with one number for each row or column.
template <class R>
inline constexpr bool kBroadcasts = kHasRowState<R> || requires { R::broadcasts; };

// Number of a rule's state that is one number for the whole array.
template <class R>
inline constexpr std::size_t kScalarStates = 0;
template <class R>
    requires requires { R::scalar_state; }
inline constexpr std::size_t kScalarStates<R> = R::scalar_state.size();

// The methods of a rule as functions of one element.  Only named in types: a call is valid if the method's is.
template <class R>
struct UpdateType {
    template <class... A>
    auto operator()(A&&... a) const -> decltype(std::declval<const R&>()(std::forward<A>(a)...));
};

template <class R>
    requires kReturnsStep<R>
struct UpdateType<R> {
    template <class... A>
    auto operator()(A&&... a) const -> decltype(std::declval<const R&>().step(std::forward<A>(a)...));
};

template <class R>
struct ReduceTermsType {
    template <class... A>
    auto operator()(A&&... a) const -> decltype(std::declval<const R&>().reduce_terms(std::forward<A>(a)...));
};

// Updates one element with a rule of either form.
template <class R, class T, class... S>
FO_HD void apply_rule(const R& rule, T& p, T g, S&... s) {
    if constexpr (kReturnsStep<R>)
        p = p - rule.step(p, g, s...);
    else
        rule(p, g, s...);
}

// A rule of either form as a function of one element.
template <class R>
struct ApplyRule {
    static constexpr auto& state = R::state;

    R rule;

    template <class T, class... S>
        requires std::is_invocable_v<UpdateType<R>, T&, T, S&...>
    FO_HD void operator()(T& p, T g, S&... s) const {
        apply_rule(rule, p, g, s...);
    }
};

// A rule's reduction as a function of one element: the terms of its sums.
template <class R>
struct ReduceTerms {
    R rule;

    template <class T, class... S>
        requires std::is_invocable_v<ReduceTermsType<R>, T&, T, S&...>
    FO_HD auto operator()(T p, T g, S&... s) const {
        return rule.reduce_terms(p, g, s...);
    }
};

// Converts to Unread and to nothing else.
struct Unreadable {};

// Whether F can be called with p, g and the states, and an Other as argument kAt.
template <class F, class T, std::size_t kAt, class Other, std::size_t... I>
constexpr bool takes(std::index_sequence<I...>) {
    return std::is_invocable_v<const F&, std::conditional_t<I == kAt, Other, std::conditional_t<I == 1, T, T&>>...>;
}

// Access of F to its argument kAt: p, g or a state array.
template <class F, class T, std::size_t kAt, std::size_t... I>
constexpr Access access_at(std::index_sequence<I...> all) {
    static_assert(std::is_invocable_v<const F&, std::conditional_t<I == 1, T, T&>...>);
    if (takes<F, T, kAt, Unreadable&>(all)) return Access::kNone;
    return kAt == 1 || takes<F, T, kAt, const T&>(all) ? Access::kRead : Access::kWrite;
}

// Access to p, g and each state array, in this order.
template <class R, class T, class F>
constexpr auto access_of() {
    return []<std::size_t... I>(std::index_sequence<I...> all) {
        return std::array{access_at<F, T, I>(all)...};
    }(std::make_index_sequence<2 + R::state.size()>{});
}

template <class R, class T>
constexpr auto update_access() {
    auto access = access_of<R, T, UpdateType<R>>();
    if constexpr (kReturnsStep<R>) {
        static_assert(access_at<UpdateType<R>, T, 0>(std::make_index_sequence<2 + R::state.size()>{}) != Access::kWrite,
                      "a step must take p by value");
        static_assert(!requires { &R::operator(); }, "a rule has either step or operator()");
        access[0] = Access::kWrite;
    }
    if constexpr (kHasRowState<R>) access.back() = Access::kNone;  // not an array of elements
    return access;
}

template <class R, class T>
inline constexpr auto kUpdateAccess = update_access<R, T>();
template <class R, class T>
inline constexpr auto kReduceAccess = access_of<R, T, ReduceTermsType<R>>();

// Whether the update is a step that does not depend on p: applied to 0 it gives the step itself, without the rounding
// of p - step.
template <class R, class T>
inline constexpr bool kIgnoresP =
    kReturnsStep<R> && access_at<UpdateType<R>, T, 0>(std::make_index_sequence<2 + R::state.size()>{}) == Access::kNone;

// Whether f writes its K-th state.
template <std::size_t K, class T, class F, std::size_t... S>
FO_HD constexpr bool writes(const F&, std::index_sequence<S...>) {
    return access_at<F, T, K + 2>(std::make_index_sequence<sizeof...(S) + 2>{}) == Access::kWrite;
}

}  // namespace fo::FO_TARGET
