// The list of passes that a step consists of.  Every device executes the same list.
#pragma once

#include "step.h"

#include <vector>

namespace fo {

enum class PassKind : std::uint8_t {
    kReduceGradients,  // the norm of each gradient, and whether it is finite
    kClip,             // the factor by which the bounds on norms scale each gradient; may skip the step
    kBeforeReduce,     // rules read their scalar state
    kReduceRule,       // the sums over a parameter that a rule needs
    kReduceAll,        // the sums over all parameters that a rule needs
    kReduceRows,       // the numbers of each row that a rule keeps, and the factors of its elements
    kFinalize,         // rules complete their constants from the sums, and write their scalar state
    kCountAgreeing,    // the number of elements of a cautious step that agree with the gradient
    kUpdate,           // the rule, with preparation before and the average after it
};

// A pass over the segments from `begin` to `end`.
struct Pass {
    PassKind kind;
    std::int64_t begin, end;
};

// Return the passes of a step in order.  Where each parameter needs sums of its own, segments are divided into batches
// of some `batch_elements()` elements: the update then finds in the caches what the reduction has read.  Without that
// function there is one batch.  `sums_are_known`: those of a rule over all parameters, which then are not reduced.
std::vector<Pass> plan_passes(const StepArgs& step, std::int64_t (*batch_elements)() = nullptr,
                              bool sums_are_known = false);

}  // namespace fo
