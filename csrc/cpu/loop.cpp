// The loops of the rules of one unit: a group of rules that is compiled together, so that a change to one rule rebuilds
// seconds of work.  Compiled once per instruction set and unit.
#include "../rules.h"
#include "tile_loop.h"
#include "units.h"

namespace fo::FO_TARGET {
namespace {

template <class R, class T>
constexpr cpu::Reduce reduce_of() {
    if constexpr (kSums<R> > 0) return &reduce<R, T>;
    return nullptr;
}

template <class R, class T>
constexpr cpu::Reduce sum_rows_of() {
    if constexpr (kHasRowState<R>) return &sum_rows<R, T>;
    return nullptr;
}

template <class R, class T>
constexpr cpu::FinalizeRows finalize_rows_of() {
    if constexpr (kHasRowState<R>) return &finalize_rows<R, T>;
    return nullptr;
}

template <int kRule>
constexpr cpu::RuleLoops loops_of() {
    using F32 = Rule<kRule, float>;
    using F64 = Rule<kRule, double>;
    return {F32::name,
            &update<F32, float>,
            &update<F64, double>,
            reduce_of<F32, float>(),
            reduce_of<F64, double>(),
            &count_agreeing<F32, float>,
            &count_agreeing<F64, double>,
            sum_rows_of<F32, float>(),
            sum_rows_of<F64, double>(),
            finalize_rows_of<F32, float>(),
            finalize_rows_of<F64, double>()};
}

constexpr auto kLoops = for_rules([](auto... rule) { return std::array{loops_of<rule>()...}; });

}  // namespace
}  // namespace fo::FO_TARGET

fo::cpu::Unit fo::cpu::FO_JOIN(unit_, FO_TARGET)() {
    return {fo::FO_TARGET::kLoops, FO_ISA::kGradientLoops, FO_ISA::kStorageLoops, FO_ISA::kAxisLoops};
}
