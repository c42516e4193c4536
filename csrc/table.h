// What the bindings see of the rules: names, and how this step's numbers are made.  Folded from the registry.
#pragma once

#include "call.h"

#include <span>

namespace fo {

struct RuleInfo {
    const char* name;
    std::span<const char* const> hyper;
    std::span<const char* const> state;
    // Fills in Scalars::rule_f32 and rule_f64 from the hyper-parameters, in the order of `hyper`.
    void (*construct)(std::int64_t t, const double* hyper, Scalars& scalars);
};

std::span<const RuleInfo> rules();

}  // namespace fo
