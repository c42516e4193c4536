// The concatenation of all segments, cut into equal shares, one a thread: a thousand small arrays cost what one large
// array costs.  A small model stays on the calling thread.
#pragma once

#include "../float_environment.h"
#include "threads.h"

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

// Elements a thread of a batch: with p, g and two states in float32, 2 MiB.
inline constexpr std::int64_t kBatchShare = 1 << 17;

// Where the batch that begins at segment `begin` ends.  Passes in turn over one batch after another find in the caches
// what the pass before has read.
template <class Lengths>
std::int64_t batch_end(std::int64_t count, std::int64_t begin, Lengths lengths) {
    const std::int64_t enough = num_threads() * kBatchShare;
    for (std::int64_t i = begin, elements = 0; i < count; ++i)
        if ((elements += lengths(i)) >= enough) return i + 1;
    return count;
}

inline std::int64_t share_begin(std::int64_t total, std::int64_t shares, std::int64_t k, std::int64_t align) {
    const std::int64_t even = total / shares * k + std::min(k, total % shares);
    return k == shares ? total : even / align * align;
}

// Calls f(i, begin, end) until every segment is done, on as many threads as get at least `min_share` each; shares begin
// at multiples of `align`.
template <class F>
void for_shares(const std::vector<std::int64_t>& begins, std::int64_t min_share, std::int64_t align, const F& f) {
    const std::int64_t total = begins.back();
    const std::int64_t shares = std::clamp<std::int64_t>(total / min_share, 1, num_threads());
    const auto do_share = [&](std::int64_t begin, std::int64_t end) {
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
    if (shares == 1) return do_share(0, total);

    // A static schedule gives every thread the same share in every step, so its data stays in its caches.
#if defined(_OPENMP)
#pragma omp parallel for num_threads(static_cast<int>(shares)) schedule(static, 1)
#endif
    for (std::int64_t k = 0; k < shares; ++k)
        do_share(share_begin(total, shares, k, align), share_begin(total, shares, k + 1, align));
}

}  // namespace fo::cpu
