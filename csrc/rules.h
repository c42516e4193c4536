// The registry: every rule once.  A new rule is one more line here.
#pragma once

// A unit of the CPU loops has its own part of this list.
#if defined(FO_UNIT_RULES)
#include FO_UNIT_RULES
#else
#include "rules/adabelief.h"
#include "rules/adabound.h"
#include "rules/adadelta.h"
#include "rules/adagrad.h"
#include "rules/adam.h"
#include "rules/adamax.h"
#include "rules/adan.h"
#include "rules/ademamix.h"
#include "rules/adopt.h"
#include "rules/aggmo.h"
#include "rules/asgd.h"
#include "rules/ftrl.h"
#include "rules/lamb.h"
#include "rules/laprop.h"
#include "rules/lars.h"
#include "rules/lion.h"
#include "rules/madgrad.h"
#include "rules/momentum.h"
#include "rules/msvag.h"
#include "rules/nadam.h"
#include "rules/novograd.h"
#include "rules/prodigy.h"
#include "rules/qhadam.h"
#include "rules/qhm.h"
#include "rules/radam.h"
#include "rules/rmsprop.h"
#include "rules/rmsprop_graves.h"
#include "rules/rprop.h"
#include "rules/schedule_free.h"
#include "rules/sgd.h"
#include "rules/signsgd.h"
#include "rules/signum.h"
#include "rules/smorms3.h"
#include "rules/sophia.h"
#include "rules/yogi.h"
#endif

#include "step.h"

#include <type_traits>
#include <utility>

namespace fo::FO_TARGET {

inline constexpr int kRules = __COUNTER__ - kSlotsBefore;

// Calls f with std::integral_constant<int, 0>{}, <int, 1>{}, ... and returns what f makes of them all together.
template <class F>
constexpr auto for_rules(F f) {
    return [&]<int... I>(std::integer_sequence<int, I...>) {
        return f(std::integral_constant<int, I>{}...);
    }(std::make_integer_sequence<int, kRules>{});
}

template <int kRule, class T>
using Rule = typename Slot<kRule>::template Rule<T>;

// How many sums over an array a rule needs before its pass over the elements.
template <class R>
inline constexpr int kSums = 0;
template <class R>
    requires requires { R::sums; }
inline constexpr int kSums<R> = R::sums;

// What a pass of a rule does with p, g and each state array, in this order.
template <class R>
inline constexpr std::size_t kArrays = 2 + R::state.size();

// The pass that takes the sums, as a function of an element that is only named in types.
template <class R>
struct ReduceTermsType {
    template <class... A>
    auto operator()(A&&... a) const -> decltype(std::declval<const R&>().reduce_terms(std::forward<A>(a)...));
};

// What no argument but one that is not read is made from.
struct Nothing {};

// Whether F takes an Other in the place of its argument number kAt.
template <class F, class T, std::size_t kAt, class Other, std::size_t... I>
constexpr bool takes(std::index_sequence<I...>) {
    return std::is_invocable_v<const F&, std::conditional_t<I == kAt, Other, std::conditional_t<I == 1, T, T&>>...>;
}

// Read, unless F takes Nothing there; written, where F takes no constant there.
template <class F, class T, std::size_t kAt, std::size_t... I>
constexpr Access access_at(std::index_sequence<I...> all) {
    static_assert(std::is_invocable_v<const F&, std::conditional_t<I == 1, T, T&>...>);
    if (takes<F, T, kAt, Nothing&>(all)) return Access::kNone;
    return kAt == 1 || takes<F, T, kAt, const T&>(all) ? Access::kRead : Access::kWrite;
}

template <class F, class T, std::size_t... I>
constexpr auto access_of(std::index_sequence<I...> all) {
    return std::array{access_at<F, T, I>(all)...};
}

template <class R, class T>
inline constexpr auto kUpdateAccess = access_of<R, T>(std::make_index_sequence<kArrays<R>>{});
template <class R, class T>
inline constexpr auto kReduceAccess = access_of<ReduceTermsType<R>, T>(std::make_index_sequence<kArrays<R>>{});

}  // namespace fo::FO_TARGET
