// Sums over the tiles of a segment, in the order of reduce.h.
#pragma once

#include "../reduce.h"
#include "../step.h"
#include "vectorize.h"

#include <algorithm>

namespace fo::FO_TARGET {

using Index = std::int64_t;

// As add_pairwise, over the lanes of a tile, with every loop's end known to the compiler.
template <int kCount, bool kLargest>
double add_lanes(const double* lanes) {
    if constexpr (kCount == 1) {
        return lanes[0];
    } else {
        static_assert(kCount % 2 == 0);
        double pairs[kCount / 2];
        for (int i = 0; i < kCount / 2; ++i) pairs[i] = combine(kLargest, lanes[2 * i], lanes[2 * i + 1]);
        return add_lanes<kCount / 2, kLargest>(pairs);
    }
}

// Write the sums of one tile: `terms(i)` returns those of element i.
template <std::size_t kSums, bool kLargest = false, class Terms>
void sum_tile(const Terms terms, Index n, double* sums) {
    if (n == 1) {  // as below, where zeros are added
        const auto each = terms(Index(0));
        for (std::size_t k = 0; k < kSums; ++k) sums[k] = combine(kLargest, 0.0, each[k]);
        return;
    }
    double lanes[kSums][kLanes] = {};
    Index i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        FO_IVDEP
        for (int lane = 0; lane < kLanes; ++lane) {
            const auto each = terms(i + lane);
            for (std::size_t k = 0; k < kSums; ++k) lanes[k][lane] = combine(kLargest, lanes[k][lane], each[k]);
        }
    }
    for (; i < n; ++i) {
        const auto each = terms(i);
        for (std::size_t k = 0; k < kSums; ++k) lanes[k][i % kLanes] = combine(kLargest, lanes[k][i % kLanes], each[k]);
    }
    for (std::size_t k = 0; k < kSums; ++k) sums[k] = add_lanes<kLanes, kLargest>(lanes[k]);
}

// Call f(begin, n) for the tiles of rows in a range that begins and ends with one: each row has tiles of its own.
template <class F>
void for_row_tiles(Index row_size, Index begin, Index end, F f) {
    for (Index n = 0; begin < end; begin += n) {
        n = std::min({row_size - begin % row_size, kSumTile, end - begin});
        f(begin, n);
    }
}

// Call f(begin, n, sums) for each of these tiles.
template <class F>
void for_tiles(const Segment& segment, Index first, Index last, double* sums, F f) {
    for (Index i = first; i < last; ++i, sums += kMaxSums)
        f(i * kSumTile, std::min(segment.p.size - i * kSumTile, kSumTile), sums);
}

}  // namespace fo::FO_TARGET
