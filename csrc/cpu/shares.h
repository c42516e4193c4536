// The concatenation of all segments, divided into equal shares, one for each thread: a thousand small arrays cost what
// one large array costs.  A small model stays on the calling thread.
#pragma once

#include "../float_environment.h"
#include "../pass.h"
#include "device.h"
#include "loop.h"
#include "parallel.h"
#include "row_blocks.h"
#include "staged_tile.h"
#include "thread_count.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fo::cpu {

// Compute where each segment begins in the concatenation, by `lengths(i)`; last, where the concatenation ends.
template <class Lengths>
void concatenate(std::int64_t count, Lengths lengths, std::vector<std::int64_t>& begins) {
    begins.assign(static_cast<std::size_t>(count) + 1, 0);
    for (std::int64_t i = 0; i < count; ++i) begins[i + 1] = begins[i] + lengths(i);
}

// Elements per thread of a batch: with p, g and two states in float32, 2 MiB.
inline constexpr std::int64_t kBatchShare = 1 << 17;

// Call f(i, begin, end) for ranges that cover every segment, on as many threads as get at least `min_share` each.
// Within segment i, ranges of different threads meet at multiples of `align_of(i)`; in the concatenation they would at
// multiples of `align`.
template <class AlignOf, class F>
void for_shares(const std::vector<std::int64_t>& begins, std::int64_t min_share, std::int64_t align,
                const AlignOf& align_of, const F& f) {
    const auto segment_at = [&](std::int64_t position) {
        return std::upper_bound(begins.begin(), begins.end() - 1, position) - begins.begin() - 1;
    };
    const auto run_range = [&](std::int64_t begin, std::int64_t end) {
        if (begin >= end) return;
        const DefaultFloatEnvironment environment;
        // The range moves to aligned positions at both ends, by the same rule as its neighbours.
        auto i = segment_at(begin);
        begin -= (begin - begins[i]) % align_of(i);
        if (end < begins.back()) {
            const auto last = segment_at(end);
            end -= (end - begins[last]) % align_of(last);
        }
        for (; begin < end; ++i) {
            const std::int64_t stop = std::min(end, begins[i + 1]);
            if (begin == stop) continue;
            f(i, begin - begins[i], stop - begins[i]);
            begin = stop;
        }
    };
    using RunRange = decltype(run_range);
    const auto call = [](const void* context, std::int64_t begin, std::int64_t end) {
        (*static_cast<const RunRange*>(context))(begin, end);
    };
    run({call, &run_range, begins.back(), min_share, align});
}

// The same for the same multiples in every segment.
template <class F>
void for_shares(const std::vector<std::int64_t>& begins, std::int64_t min_share, std::int64_t align, const F& f) {
    for_shares(begins, min_share, align, [align](std::int64_t) { return align; }, f);
}

// The batches of plan_passes on the CPU.
inline std::int64_t batch_elements() { return num_threads() * kBatchShare; }

// Return the fewest elements per thread of a pass: fewer where most of its elements are of selected rows.
inline std::int64_t min_share_of(const StepArgs& step, const Pass& pass) {
    std::int64_t all = 0, of_rows = 0;
    for (std::int64_t i = pass.begin; i < pass.end; ++i) {
        all += step.stepped(i);
        if (step.gradients[i].rows) of_rows += step.stepped(i);
    }
    return 2 * of_rows > all ? kMinRowShare : kMinShare;
}

// Update the segments of a pass in shares; `loops_of(i)` returns the loops for segment i.  Allocates nothing if
// `begins`, whose content is of no account, has the capacity for one more number than there are segments.
template <class LoopsOf>
void update_shares(const StepArgs& step, const Pass& pass, LoopsOf loops_of, const GradientLoops& gradient_loops,
                   const StorageLoops& storage_loops, std::vector<std::int64_t>& begins) {
    concatenate(pass.end - pass.begin, [&](std::int64_t i) { return step.stepped(pass.begin + i); }, begins);
    for_shares(begins, min_share_of(step, pass), kAlign, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
        const std::int64_t at = pass.begin + i;
        const RuleLoops& loops = loops_of(at);
        const bool is_double = step.segments[at].p.format == Format::kFloat64;
        const Update update = is_double ? loops.update_f64 : loops.update_f32;
        if (step.gradients[at].rows)
            return RowBlock(step, at, gradient_loops, storage_loops).update(update, begin, end);
        update_range(update, storage_loops, step.segments[at], step.gradients[at], step.constants_of(at), begin, end);
    });
}

}  // namespace fo::cpu
