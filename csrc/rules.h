// The registry of rules.  A new rule is one more #include here.
#pragma once

// A unit of the CPU loops has its own part of this list.
#if defined(FO_UNIT_RULES)
#include FO_UNIT_RULES
#else
#include "rules/adabelief.h"
#include "rules/adabound.h"
#include "rules/adadelta.h"
#include "rules/adafactor.h"
#include "rules/adagrad.h"
#include "rules/adam.h"
#include "rules/adam_mini.h"
#include "rules/adamax.h"
#include "rules/adan.h"
#include "rules/ademamix.h"
#include "rules/adopt.h"
#include "rules/aggmo.h"
#include "rules/asgd.h"
#include "rules/came.h"
#include "rules/ftrl.h"
#include "rules/lamb.h"
#include "rules/laprop.h"
#include "rules/lars.h"
#include "rules/lbfgs.h"
#include "rules/lion.h"
#include "rules/madgrad.h"
#include "rules/mars.h"
#include "rules/momentum.h"
#include "rules/msvag.h"
#include "rules/muon.h"
#include "rules/nadam.h"
#include "rules/novograd.h"
#include "rules/prodigy.h"
#include "rules/qhadam.h"
#include "rules/qhm.h"
#include "rules/radam.h"
#include "rules/rmsprop.h"
#include "rules/rmsprop_graves.h"
#include "rules/rowwise_adagrad.h"
#include "rules/rowwise_adam.h"
#include "rules/rprop.h"
#include "rules/schedule_free.h"
#include "rules/sgd.h"
#include "rules/shampoo.h"
#include "rules/signsgd.h"
#include "rules/signum.h"
#include "rules/sm3.h"
#include "rules/smorms3.h"
#include "rules/soap.h"
#include "rules/sophia.h"
#include "rules/stable_adamw.h"
#include "rules/yogi.h"
#endif

#include <utility>

namespace fo::FO_TARGET {

inline constexpr int kRules = __COUNTER__ - kFirstCounter;

template <int kRule, class T>
using Rule = typename RuleAt<kRule>::template Rule<T>;

// Returns f(std::integral_constant<int, 0>{}, ..., std::integral_constant<int, kRules - 1>{}).
template <class F>
constexpr auto for_rules(F f) {
    return [&]<int... I>(std::integer_sequence<int, I...>) {
        return f(std::integral_constant<int, I>{}...);
    }(std::make_integer_sequence<int, kRules>{});
}

}  // namespace fo::FO_TARGET
