// Norms and sums where they are needed, then the update, each one pass over the concatenation of all segments; where
// sums are each array's own, of one batch of segments after another.
#include "step.h"

#include "../float_environment.h"
#include "../prepare.h"
#include "../sums.h"
#include "../table.h"
#include "shares.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

namespace fo::cpu {
namespace {

using Index = std::int64_t;

const Scalars& scalars_of(const Call& call, Index i) { return call.scalars[call.gradients[i].scalars]; }

// Elements of the i-th array that the step goes over.
Index stepped(const Call& call, Index i) { return call.gradients[i].data ? call.segments[i].size : 0; }

template <class Function>
Function choose(Format format, Function f32, Function f64) {
    return format == Format::kFloat64 ? f64 : f32;
}

// Sums over each array for which `measure_of(i)` is a function; kMaxSums an array.
template <class MeasureOf>
std::vector<double> sum_arrays(const Call& call, MeasureOf measure_of) {
    const auto begins =
        concatenate(call.count, [&](Index i) { return measure_of(i) ? tiles_of(call.segments[i].size) : 0; });
    std::vector<double> tiles(static_cast<std::size_t>(begins.back() * kMaxSums));
    std::vector<double> totals(static_cast<std::size_t>(call.count * kMaxSums));
    // Tiles of small arrays are not full, so count elements before using threads.
    Index elements = 0;
    for (Index i = 0; i < call.count; ++i) elements += measure_of(i) ? call.segments[i].size : 0;
    const Index min_share = elements < 2 * kMinShare ? begins.back() + 1 : kMinShare / kSumTile;
    for_shares(begins, min_share, 1, [&](Index i, Index begin, Index end) {
        measure_of(i)(call.segments[i], call.gradients[i], scalars_of(call, i), begin, end,
                      tiles.data() + (begins[i] + begin) * kMaxSums);
    });
    const DefaultFloatEnvironment environment;
    for (Index i = 0; i < call.count; ++i)
        for (int k = 0; k < kMaxSums; ++k)
            totals[i * kMaxSums + k] =
                add_pairwise(tiles.data() + begins[i] * kMaxSums + k, begins[i + 1] - begins[i], kMaxSums);
    return totals;
}

// Sets what the norms leave of each gradient.  False if the step is to be skipped.
bool clip(const Call& call, const Loops& loops) {
    bool skips = false, clips = false;
    for (Index k = 0; k < call.scalars_count; ++k) {
        skips |= call.scalars[k].skip_nonfinite;
        clips |= call.scalars[k].clip_norm < INFINITY || call.scalars[k].clip_global_norm < INFINITY;
    }
    if (!skips && !clips) return true;

    const auto sums = gradient_sums(call, loops);
    const DefaultFloatEnvironment environment;
    double whole = 0;
    for (Index i = 0; i < call.count; ++i) {
        if (!call.gradients[i].data) continue;
        if (skips && sums[i * kMaxSums + 1] != 0) return false;
        const double norm = std::sqrt(sums[i * kMaxSums]);
        call.gradients[i].clip = FO_TARGET::clip_factor(scalars_of(call, i).clip_norm, norm);
        const double left = call.gradients[i].clip != 0 ? call.gradients[i].clip * norm : 0;
        whole += left * left;
    }
    const double norm = std::sqrt(whole);
    for (Index i = 0; i < call.count; ++i)
        if (call.gradients[i].data)
            call.gradients[i].clip *= FO_TARGET::clip_factor(scalars_of(call, i).clip_global_norm, norm);
    return true;
}

// Replaces the sums of arrays whose rule wants those of the whole group.
template <class InfoOf>
void add_up_groups(const Call& call, std::vector<double>& sums, InfoOf info_of) {
    std::map<std::int32_t, std::array<double, kMaxSums>> groups;
    const auto for_members = [&](auto f) {
        for (Index i = 0; i < call.count; ++i)
            if (call.gradients[i].data && info_of(i).sums_of_group)
                for (int k = 0; k < kMaxSums; ++k) f(groups[call.segments[i].group][k], sums[i * kMaxSums + k]);
    };
    for_members([](double& group, double& own) { group += own; });
    for_members([](double& group, double& own) { own = group; });
}

// Makes each array's rule its own where it depends on sums over the array or on numbers of the array's.
void adapt(const Call& call, const Loops& loops) {
    bool any = false;
    for (Index k = 0; k < call.scalars_count; ++k) any |= rules()[call.scalars[k].rule].adapt != nullptr;
    if (!any) return;
    const auto info_of = [&](Index i) -> const RuleInfo& { return rules()[scalars_of(call, i).rule]; };
    const auto adapts = [&](Index i) { return call.gradients[i].data && info_of(i).adapt; };

    for (Index i = 0; i < call.count; ++i) {
        const DefaultFloatEnvironment environment;
        if (adapts(i) && info_of(i).begin)
            info_of(i).begin(call.scalars[call.gradients[i].scalars], call.segments[i].format,
                             call.segments[i].scalars);
    }
    auto sums = sum_arrays(call, [&](Index i) -> Measure {
        if (!adapts(i)) return nullptr;
        const Updates& of_rule = loops.updates[scalars_of(call, i).rule];
        return choose(call.segments[i].format, of_rule.measure_f32, of_rule.measure_f64);
    });
    const DefaultFloatEnvironment environment;
    add_up_groups(call, sums, info_of);
    for (Index i = 0; i < call.count; ++i)
        if (adapts(i))
            info_of(i).adapt(call.scalars[call.gradients[i].scalars], call.segments[i].format,
                             sums.data() + i * kMaxSums, call.segments[i].scalars);
}

void update(const Call& call, const Loops& loops) {
    const auto begins = concatenate(call.count, [&](Index i) { return stepped(call, i); });
    for_shares(begins, kMinShare, kAlign, [&](Index i, Index begin, Index end) {
        const Segment& segment = call.segments[i];
        const Scalars& scalars = scalars_of(call, i);
        const Updates& of_rule = loops.updates[scalars.rule];
        choose(segment.format, of_rule.f32, of_rule.f64)(segment, call.gradients[i], scalars, begin, end);
    });
}

// Whether a rule wants sums over each array for itself, so that an array needs not wait for the next ones.
bool sums_each(const Call& call) {
    return std::any_of(call.scalars, call.scalars + call.scalars_count, [](const Scalars& scalars) {
        const RuleInfo& rule = rules()[scalars.rule];
        return rule.adapt && !rule.sums_of_group;
    });
}

}  // namespace

std::vector<double> gradient_sums(const Call& call, const Loops& loops) {
    return sum_arrays(call, [&](Index i) -> Measure {
        if (!call.gradients[i].data) return nullptr;
        return choose(call.segments[i].format, loops.gradient_f32, loops.gradient_f64);
    });
}

bool step(const Call& call, const Loops& loops) {
    if (!clip(call, loops)) return false;
    const bool in_batches = sums_each(call);
    for (Index begin = 0, end; begin < call.count; begin = end) {
        end = in_batches ? batch_end(call.count, begin, [&](Index i) { return stepped(call, i); }) : call.count;
        const Call batch{call.segments + begin, call.gradients + begin, end - begin, call.scalars, call.scalars_count};
        adapt(batch, loops);
        update(batch, loops);
    }
    return true;
}

}  // namespace fo::cpu
