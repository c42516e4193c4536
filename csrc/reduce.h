// Sums whose bits depend on the number of terms alone: not on threads, instruction set or device.
// Terms are double.  An array is cut into tiles in the order of memory; in a tile run kLanes sums, each of every
// kLanes-th term; then neighbours are added in pairs, first the lanes of a tile, then the tiles of an array.
#pragma once

#include <cstdint>

namespace fo {

inline constexpr std::int64_t kSumTile = 1024;
inline constexpr int kLanes = 32;

inline std::int64_t tiles_of(std::int64_t size) { return (size + kSumTile - 1) / kSumTile; }

// One of several sums that stand `stride` apart; overwrites them.  No terms make 0.
inline double add_pairwise(double* sums, std::int64_t count, std::int64_t stride) {
    for (; count > 1; count = (count + 1) / 2) {
        for (std::int64_t i = 0; i < count / 2; ++i)
            sums[i * stride] = sums[2 * i * stride] + sums[(2 * i + 1) * stride];
        if (count % 2) sums[count / 2 * stride] = sums[(count - 1) * stride];
    }
    return count ? sums[0] : 0;
}

}  // namespace fo
