// The concatenation of all segments, divided into equal shares, one for each thread: a thousand small arrays cost what
// one large array costs.  A small model stays on the calling thread.
#pragma once

#include "../float_environment.h"
#include "parallel.h"
#include "thread_count.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fo::cpu {

// Return where each segment begins in the concatenation, by `lengths(i)`; last, where the concatenation ends.
template <class Lengths>
std::vector<std::int64_t> concatenate(std::int64_t count, Lengths lengths) {
    std::vector<std::int64_t> begins(static_cast<std::size_t>(count) + 1);
    for (std::int64_t i = 0; i < count; ++i) begins[i + 1] = begins[i] + lengths(i);
    return begins;
}

// Elements per thread of a batch: with p, g and two states in float32, 2 MiB.
inline constexpr std::int64_t kBatchShare = 1 << 17;

// Call f(i, begin, end) for ranges that cover every segment, on as many threads as get at least `min_share` each.
// Within a segment, ranges of different threads meet at multiples of `align`.
template <class F>
void for_shares(const std::vector<std::int64_t>& begins, std::int64_t min_share, std::int64_t align, const F& f) {
    const auto segment_at = [&](std::int64_t position) {
        return std::upper_bound(begins.begin(), begins.end() - 1, position) - begins.begin() - 1;
    };
    const auto run_range = [&](std::int64_t begin, std::int64_t end) {
        if (begin >= end) return;
        const DefaultFloatEnvironment environment;
        // The range moves to aligned positions at both ends, by the same rule as its neighbours.
        auto i = segment_at(begin);
        begin -= (begin - begins[i]) % align;
        if (end < begins.back()) end -= (end - begins[segment_at(end)]) % align;
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
