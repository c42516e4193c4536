// Descriptors of the rules, for code that is compiled without them: names, array accesses and per-step functions.
#pragma once

#include "step.h"

#include <span>

namespace fo {

struct RuleInfo {
    const char* name;
    std::span<const char* const> hyper;         // hyper-parameters, the arguments of the constructor
    std::span<const char* const> state;         // state arrays
    bool has_row_state;                         // whether the last of them has one number for each row
    bool broadcasts;                            // whether those that are only read may be broadcast
    std::span<const char* const> scalar_state;  // state of one number per parameter
    int sums;                                   // sums over an array that the rule reduces before its update
    bool reduces_all;                           // whether they are sums over all parameters
    std::span<const Access> reduced;            // accesses of the reduction to p, g and each state array; or empty
    std::span<const Access> updated;            // accesses of the update
    bool ignores_p;                             // whether the update is a step that does not depend on p
    // Construct StepConstants::rule_f32 or rule_f64 from the hyper-parameters.
    void (*construct_f32)(std::int64_t t, const double* hyper, StepConstants& constants);
    void (*construct_f64)(std::int64_t t, const double* hyper, StepConstants& constants);
    // Set the constants that the reduction takes from the scalar state; null if it needs none.
    void (*before_reduce)(StepConstants& constants, Format format, double* const* scalar_state);
    // Set the constants of one parameter from its sums and its scalar state, and update the latter; null if the rule
    // has neither.
    void (*finalize)(StepConstants& constants, Format format, const double* sums, double* const* scalar_state);
};

std::span<const RuleInfo> rules();

inline const RuleInfo& rule_info(int rule) { return rules()[static_cast<std::size_t>(rule)]; }

// Return the number of state arrays that have the parameter's elements; they are the first.
inline std::size_t element_states(const RuleInfo& rule) { return rule.state.size() - rule.has_row_state; }

// Return whether the step changes the parameter of segment i or its scalar state.  Sums over all parameters change the
// scalar state of those without a gradient, too, which then are like parameters without elements.
inline bool takes_part(const StepArgs& step, std::int64_t i) {
    return step.gradients[i].data || rule_info(step.constants_of(i).rule).reduces_all;
}

}  // namespace fo
