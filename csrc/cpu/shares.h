// The concatenation of all segments, cut into equal shares, one a thread: a thousand small arrays cost what one large
// array costs.  A small model stays on the calling thread.
#pragma once

#include "../float_environment.h"
#include "parallel.h"
#include "thread_count.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fo::cpu {

// Where each segment begins in the concatenation, by `lengths(i)`; last, where the concatenation ends.
template <class Lengths>
std::vector<std::int64_t> concatenate(std::int64_t count, Lengths lengths) {
    std::vector<std::int64_t> begins(static_cast<std::size_t>(count) + 1);
    for (std::int64_t i = 0; i < count; ++i) begins[i + 1] = begins[i] + lengths(i);
    return begins;
}

// Elements per thread of a batch: with p, g and two states in float32, 2 MiB.
inline constexpr std::int64_t kBatchShare = 1 << 17;

// Where the batch that begins at segment `begin` ends.  Passes in turn over one batch after another find in the caches
// what the pass before has read.
template <class Lengths>
std::int64_t batch_end(std::int64_t count, std::int64_t begin, Lengths lengths) {
    std::int64_t enough = 0;
    for (std::int64_t i = begin, elements = 0; i < count; ++i) {
        if ((elements += lengths(i)) < kBatchShare) continue;
        if (enough == 0) enough = num_threads() * kBatchShare;
        if (elements >= enough) return i + 1;
    }
    return count;
}

// StepArgs f(i, begin, end) for ranges that cover every segment, on as many threads as get at least `min_share` each;
// shares begin at multiples of `align`.
template <class F>
void for_shares(const std::vector<std::int64_t>& begins, std::int64_t min_share, std::int64_t align, const F& f) {
    const auto run_range = [&](std::int64_t begin, std::int64_t end) {
        if (begin >= end) return;
        const DefaultFloatEnvironment environment;
        auto i = std::upper_bound(begins.begin(), begins.end(), begin) - begins.begin() - 1;
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

}  // namespace fo::cpu
