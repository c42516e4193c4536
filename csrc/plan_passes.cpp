#include "pass.h"
#include "rule_info.h"

#include <algorithm>

namespace fo {
namespace {

// Which passes the rules and options of a step need.
struct Needs {
    bool norms = false, before_reduce = false, reduce_rule = false, reduce_all = false, reduce_rows = false;
    bool finalize = false, count = false, batches = false;

    explicit Needs(const StepArgs& step) {
        for (std::int64_t k = 0; k < step.constants_count; ++k) {
            const StepConstants& constants = step.constants[k];
            const RuleInfo& rule = rule_info(constants.rule);
            norms |= constants.skip_nonfinite || constants.bounds_norms();
            before_reduce |= rule.before_reduce != nullptr;
            reduce_rule |= rule.sums > 0;
            reduce_all |= rule.reduces_all;
            reduce_rows |= rule.has_row_state;
            finalize |= rule.finalize != nullptr;
            count |= constants.cautious;
            batches |= rule.finalize || rule.has_row_state || constants.cautious;
        }
    }
};

// Return where the batch that begins at segment `begin` ends: never inside a parameter.
std::int64_t batch_end(const StepArgs& step, std::int64_t begin, std::int64_t batch_elements) {
    std::int64_t elements = 0;
    for (std::int64_t i = begin; i < step.count; ++i) {
        const bool last_of_param = i + 1 == step.count || step.segments[i + 1].param != step.segments[i].param;
        if ((elements += step.stepped(i)) >= batch_elements && last_of_param) return i + 1;
    }
    return step.count;
}

}  // namespace

std::vector<Pass> plan_passes(const StepArgs& step, std::int64_t (*batch_elements)(), bool sums_are_known) {
    const auto has_data = [](const Gradient& gradient) { return gradient.data != nullptr; };
    if (!sums_are_known && std::none_of(step.gradients, step.gradients + step.count, has_data)) return {};
    const Needs needs(step);
    const bool batches = needs.batches && !needs.reduce_all;  // whose sums are those of all segments
    const std::int64_t batch = batches && batch_elements ? batch_elements() : INT64_MAX;
    std::vector<Pass> passes;
    passes.reserve(8);
    const auto add = [&](bool needed, PassKind kind, std::int64_t begin, std::int64_t end) {
        if (needed) passes.push_back({kind, begin, end});
    };
    add(needs.norms, PassKind::kReduceGradients, 0, step.count);
    add(needs.norms, PassKind::kClip, 0, step.count);
    for (std::int64_t begin = 0, end; begin < step.count; begin = end) {
        end = batch < INT64_MAX ? batch_end(step, begin, batch) : step.count;
        add(needs.before_reduce, PassKind::kBeforeReduce, begin, end);
        add(needs.reduce_rule && !sums_are_known, PassKind::kReduceRule, begin, end);
        add(needs.reduce_all, PassKind::kReduceAll, begin, end);
        add(needs.reduce_rows, PassKind::kReduceRows, begin, end);
        add(needs.finalize, PassKind::kFinalize, begin, end);
        add(needs.count, PassKind::kCountAgreeing, begin, end);
        add(true, PassKind::kUpdate, begin, end);
    }
    return passes;
}

}  // namespace fo
