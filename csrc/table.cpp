#include "table.h"

#include "rules.h"

#include <cstring>

namespace fo {
namespace {

namespace target = FO_TARGET;

template <class R, std::byte (Scalars::*kBytes)[kRuleBytes]>
void construct(std::int64_t t, const double* hyper, Scalars& scalars) {
    static_assert(sizeof(R) <= kRuleBytes && R::state.size() <= kMaxState && R::hyper.size() <= kMaxHyper);
    [&]<std::size_t... I>(std::index_sequence<I...>) {
        const R rule(target::Clock{t}, hyper[I]...);
        std::memcpy(scalars.*kBytes, &rule, sizeof rule);
    }(std::make_index_sequence<R::hyper.size()>{});
}

template <class R, class F>
void change_as(std::byte* bytes, F f) {
    alignas(R) std::byte copy[sizeof(R)];
    std::memcpy(copy, bytes, sizeof(R));
    R& rule = *reinterpret_cast<R*>(copy);
    f(rule);
    std::memcpy(bytes, &rule, sizeof(R));
}

// Calls f with the rule in the compute type of that format.
template <int kRule, class F>
void change(Scalars& scalars, Format format, F f) {
    if (format == Format::kFloat64)
        change_as<target::Rule<kRule, double>>(scalars.rule_f64, f);
    else
        change_as<target::Rule<kRule, float>>(scalars.rule_f32, f);
}

template <int kRule>
void begin(Scalars& scalars, Format format, double* const* own) {
    change<kRule>(scalars, format, [=](auto& rule) { rule.begin(own); });
}

template <int kRule>
void adapt(Scalars& scalars, Format format, const double* sums, double* const* own) {
    change<kRule>(scalars, format, [=](auto& rule) { rule.adapt(sums, own); });
}

template <int kRule>
constexpr RuleInfo describe() {
    using R = target::Rule<kRule, float>;
    RuleInfo info{};
    info.name = R::name;
    info.hyper = R::hyper;
    info.state = R::state;
    info.sums = target::kSums<R>;
    info.updated = target::kUpdateAccess<R, float>;
    info.construct_f32 = &construct<R, &Scalars::rule_f32>;
    info.construct_f64 = &construct<target::Rule<kRule, double>, &Scalars::rule_f64>;
    if constexpr (target::kSums<R> > 0) info.measured = target::kMeasureAccess<R, float>;
    if constexpr (requires { R::scalars; }) info.scalars = R::scalars;
    if constexpr (requires { R::sums_of_group; }) info.sums_of_group = R::sums_of_group;
    if constexpr (requires { &R::begin; }) info.begin = &begin<kRule>;
    if constexpr (requires { &R::adapt; }) info.adapt = &adapt<kRule>;
    return info;
}

constexpr auto kTable = target::for_rules([](auto... rule) { return std::array{describe<rule>()...}; });

}  // namespace

std::span<const RuleInfo> rules() { return kTable; }

}  // namespace fo
