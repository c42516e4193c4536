// Norms and sums where they are needed, then the update, each one pass over the concatenation of all segments; where
// sums are each array's own, of one batch of segments after another.
#include "device.h"

#include "../float_environment.h"
#include "../prepare.h"
#include "../reduce.h"
#include "../rule_info.h"
#include "shares.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

namespace fo::cpu {
namespace {

using Index = std::int64_t;

const StepConstants& constants_of(const StepArgs& step, Index i) { return step.constants[step.gradients[i].constants]; }

// Elements of the i-th array that the step goes over.
Index stepped(const StepArgs& step, Index i) { return step.gradients[i].data ? step.segments[i].size : 0; }

template <class Function>
Function choose(Format format, Function f32, Function f64) {
    return format == Format::kFloat64 ? f64 : f32;
}

// Sums over each array for which `reduce_of(i)` is a function; kMaxSums an array.
template <class MeasureOf>
std::vector<double> sum_arrays(const StepArgs& step, MeasureOf reduce_of) {
    const auto begins =
        concatenate(step.count, [&](Index i) { return reduce_of(i) ? tiles_of(step.segments[i].size) : 0; });
    std::vector<double> tiles(static_cast<std::size_t>(begins.back() * kMaxSums));
    std::vector<double> totals(static_cast<std::size_t>(step.count * kMaxSums));
    // Tiles of small arrays are not full, so count elements before using threads.
    Index elements = 0;
    for (Index i = 0; i < step.count; ++i) elements += reduce_of(i) ? step.segments[i].size : 0;
    const Index min_share = elements < 2 * kMinShare ? begins.back() + 1 : kMinShare / kSumTile;
    for_shares(begins, min_share, 1, [&](Index i, Index begin, Index end) {
        reduce_of(i)(step.segments[i], step.gradients[i], constants_of(step, i), begin, end,
                     tiles.data() + (begins[i] + begin) * kMaxSums);
    });
    const DefaultFloatEnvironment environment;
    for (Index i = 0; i < step.count; ++i)
        for (int k = 0; k < kMaxSums; ++k)
            totals[i * kMaxSums + k] =
                add_pairwise(tiles.data() + begins[i] * kMaxSums + k, begins[i + 1] - begins[i], kMaxSums);
    return totals;
}

// Sets what the norms leave of each gradient.  False if the step is to be skipped.
bool clip(const StepArgs& step, const Loops& loops) {
    bool skips = false, clips = false;
    for (Index k = 0; k < step.constants_count; ++k) {
        skips |= step.constants[k].skip_nonfinite;
        clips |= step.constants[k].clip_norm < INFINITY || step.constants[k].clip_global_norm < INFINITY;
    }
    if (!skips && !clips) return true;

    const auto sums = gradient_sums(step, loops);
    const DefaultFloatEnvironment environment;
    double whole = 0;
    for (Index i = 0; i < step.count; ++i) {
        if (!step.gradients[i].data) continue;
        if (skips && sums[i * kMaxSums + 1] != 0) return false;
        const double norm = std::sqrt(sums[i * kMaxSums]);
        step.gradients[i].clip = FO_TARGET::clip_factor(constants_of(step, i).clip_norm, norm);
        const double left = step.gradients[i].clip != 0 ? step.gradients[i].clip * norm : 0;
        whole += left * left;
    }
    const double norm = std::sqrt(whole);
    for (Index i = 0; i < step.count; ++i)
        if (step.gradients[i].data)
            step.gradients[i].clip *= FO_TARGET::clip_factor(constants_of(step, i).clip_global_norm, norm);
    return true;
}

// Replaces the sums of arrays whose rule wants those of the whole group.
template <class InfoOf>
void add_up_groups(const StepArgs& step, std::vector<double>& sums, InfoOf info_of) {
    std::map<std::int32_t, std::array<double, kMaxSums>> groups;
    const auto for_members = [&](auto f) {
        for (Index i = 0; i < step.count; ++i)
            if (step.gradients[i].data && info_of(i).reduces_group)
                for (int k = 0; k < kMaxSums; ++k) f(groups[step.segments[i].group][k], sums[i * kMaxSums + k]);
    };
    for_members([](double& group, double& own) { group += own; });
    for_members([](double& group, double& own) { own = group; });
}

// Makes each array's rule its own where it depends on sums over the array or on numbers of the array's.
void finalize(const StepArgs& step, const Loops& loops) {
    bool any = false;
    for (Index k = 0; k < step.constants_count; ++k) any |= rules()[step.constants[k].rule].finalize != nullptr;
    if (!any) return;
    const auto info_of = [&](Index i) -> const RuleInfo& { return rules()[constants_of(step, i).rule]; };
    const auto finalizes = [&](Index i) { return step.gradients[i].data && info_of(i).finalize; };

    for (Index i = 0; i < step.count; ++i) {
        const DefaultFloatEnvironment environment;
        if (finalizes(i) && info_of(i).before_reduce)
            info_of(i).before_reduce(step.constants[step.gradients[i].constants], step.segments[i].format,
                                     step.segments[i].scalar_state);
    }
    auto sums = sum_arrays(step, [&](Index i) -> Reduce {
        if (!finalizes(i)) return nullptr;
        const Updates& of_rule = loops.updates[constants_of(step, i).rule];
        return choose(step.segments[i].format, of_rule.reduce_f32, of_rule.reduce_f64);
    });
    const DefaultFloatEnvironment environment;
    add_up_groups(step, sums, info_of);
    for (Index i = 0; i < step.count; ++i)
        if (finalizes(i))
            info_of(i).finalize(step.constants[step.gradients[i].constants], step.segments[i].format,
                                sums.data() + i * kMaxSums, step.segments[i].scalar_state);
}

void update(const StepArgs& step, const Loops& loops) {
    const auto begins = concatenate(step.count, [&](Index i) { return stepped(step, i); });
    for_shares(begins, kMinShare, kAlign, [&](Index i, Index begin, Index end) {
        const Segment& segment = step.segments[i];
        const StepConstants& constants = constants_of(step, i);
        const Updates& of_rule = loops.updates[constants.rule];
        choose(segment.format, of_rule.f32, of_rule.f64)(segment, step.gradients[i], constants, begin, end);
    });
}

// Whether a rule wants sums over each array for itself, so that an array needs not wait for the next ones.
bool sums_each(const StepArgs& step) {
    return std::any_of(step.constants, step.constants + step.constants_count, [](const StepConstants& constants) {
        const RuleInfo& rule = rules()[constants.rule];
        return rule.finalize && !rule.reduces_group;
    });
}

}  // namespace

std::vector<double> gradient_sums(const StepArgs& step, const Loops& loops) {
    return sum_arrays(step, [&](Index i) -> Reduce {
        if (!step.gradients[i].data) return nullptr;
        return choose(step.segments[i].format, loops.gradient_f32, loops.gradient_f64);
    });
}

bool step(const StepArgs& step, const Loops& loops) {
    if (!clip(step, loops)) return false;
    const bool in_batches = sums_each(step);
    for (Index begin = 0, end; begin < step.count; begin = end) {
        end = in_batches ? batch_end(step.count, begin, [&](Index i) { return stepped(step, i); }) : step.count;
        const StepArgs batch{step.segments + begin, step.gradients + begin, end - begin, step.constants,
                             step.constants_count};
        finalize(batch, loops);
        update(batch, loops);
    }
    return true;
}

}  // namespace fo::cpu
