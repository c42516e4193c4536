// What the bindings see of the rules: names, and how this step's numbers are made.  Folded from the registry.
#pragma once

#include "step.h"

#include <span>

namespace fo {

struct RuleInfo {
    const char* name;
    std::span<const char* const> hyper;
    std::span<const char* const> state;
    std::span<const char* const> scalar_state;  // state that is one number for the whole array
    int sums;                                   // over an array, that the rule needs before its pass over the elements
    bool reduces_group;                         // over all arrays of a group
    std::span<const Access> reduced;  // what the pass for the sums does with p, g and each state array; or empty
    std::span<const Access> updated;  // and what the update does
    // Fill in StepConstants::rule_f32 or rule_f64 from the hyper-parameters, in the order of `hyper`.
    void (*construct_f32)(std::int64_t t, const double* hyper, StepConstants& constants);
    void (*construct_f64)(std::int64_t t, const double* hyper, StepConstants& constants);
    // Takes up an array's numbers before its sums are taken; null where those do not depend on them.
    void (*before_reduce)(StepConstants& constants, Format format, double* const* own);
    // Makes of them those of one array, from its sums and its own numbers, which it updates; null where a rule has
    // neither.
    void (*finalize)(StepConstants& constants, Format format, const double* sums, double* const* own);
};

std::span<const RuleInfo> rules();

inline const RuleInfo& rule_info(int rule) { return rules()[static_cast<std::size_t>(rule)]; }

}  // namespace fo
