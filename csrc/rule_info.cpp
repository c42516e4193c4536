#include "rule_info.h"

#include "rule_traits.h"
#include "rules.h"

#include <cstring>

namespace fo {
namespace {

namespace target = FO_TARGET;

template <class R, std::byte (StepConstants::*kBytes)[kRuleBytes]>
void construct(std::int64_t t, const double* hyper, StepConstants& constants) {
    static_assert(sizeof(R) <= kRuleBytes && R::state.size() <= kMaxState && R::hyper.size() <= kMaxHyper);
    [&]<std::size_t... I>(std::index_sequence<I...>) {
        const R rule(target::Clock{t}, hyper[I]...);
        std::memcpy(constants.*kBytes, &rule, sizeof rule);
    }(std::make_index_sequence<R::hyper.size()>{});
}

// Calls f with the rule that is stored in `bytes`, and stores it again.
template <class R, class F>
void change_as(std::byte* bytes, F f) {
    alignas(R) std::byte copy[sizeof(R)];
    std::memcpy(copy, bytes, sizeof(R));
    R& rule = *reinterpret_cast<R*>(copy);
    f(rule);
    std::memcpy(bytes, &rule, sizeof(R));
}

// Calls f with the rule in the compute type of a format, and stores it again.
template <int kRule, class F>
void change(StepConstants& constants, Format format, F f) {
    if (format == Format::kFloat64)
        change_as<target::Rule<kRule, double>>(constants.rule_f64, f);
    else
        change_as<target::Rule<kRule, float>>(constants.rule_f32, f);
}

template <int kRule>
void before_reduce(StepConstants& constants, Format format, double* const* scalar_state) {
    change<kRule>(constants, format, [=](auto& rule) { rule.before_reduce(scalar_state); });
}

template <int kRule>
void finalize(StepConstants& constants, Format format, const double* sums, double* const* scalar_state) {
    change<kRule>(constants, format, [=](auto& rule) { rule.finalize(sums, scalar_state); });
}

template <int kRule>
constexpr RuleInfo describe() {
    using R = target::Rule<kRule, float>;
    RuleInfo info{};
    info.name = R::name;
    info.hyper = R::hyper;
    info.state = R::state;
    info.has_row_state = target::kHasRowState<R>;
    info.broadcasts = target::kBroadcasts<R>;
    info.sums = target::kSums<R>;
    info.updated = target::kUpdateAccess<R, float>;
    info.ignores_p = target::kIgnoresP<R, float>;
    info.construct_f32 = &construct<R, &StepConstants::rule_f32>;
    info.construct_f64 = &construct<target::Rule<kRule, double>, &StepConstants::rule_f64>;
    if constexpr (target::kSums<R> > 0 || target::kHasRowState<R>) info.reduced = target::kReduceAccess<R, float>;
    if constexpr (requires { R::scalar_state; }) info.scalar_state = R::scalar_state;
    if constexpr (requires { R::reduces_all; }) info.reduces_all = R::reduces_all;
    if constexpr (target::kHasBeforeReduce<R>) info.before_reduce = &before_reduce<kRule>;
    if constexpr (target::kFinalizes<R>) info.finalize = &finalize<kRule>;
    return info;
}

constexpr auto kTable = target::for_rules([](auto... rule) { return std::array{describe<rule>()...}; });

}  // namespace

std::span<const RuleInfo> rules() { return kTable; }

}  // namespace fo
