// Reductions of a fixed shape, so that their bits depend on the number of terms alone: not on threads, instruction set
// or device.  Also the order in which norms and sums of arrays are added: it is written here once, for every device.
//
// Terms are float64.  An array is divided into tiles of kSumTile elements in the order of memory.  In a tile run kLanes
// sums, each of every kLanes-th term.  Neighbours are then added in pairs (pairwise summation): first the lanes of a
// tile, then the tiles of a segment.  Segments of a parameter, and arrays, are added one after another.
#pragma once

#include "rule.h"
#include "step.h"

namespace fo {

inline constexpr std::int64_t kSumTile = 1024;
inline constexpr int kLanes = 32;

// Rows of a matrix whose elements of a column are added one after another, before the sums of these blocks are.
inline constexpr std::int64_t kRowBlock = 64;

FO_HD inline std::int64_t tiles_of(std::int64_t size) { return (size + kSumTile - 1) / kSumTile; }

}  // namespace fo

namespace fo::FO_TARGET {

// The sum of a and b, or for NormType::kInfinity the larger; NaN if either is.
FO_HD inline double combine(bool largest, double a, double b) { return largest ? max(a, b) : a + b; }

// Where `count` groups of `sums` values are reduced to the first of them.  Group i begins at values[i * stride], and
// its values are `sum_stride` apart.
struct PairwiseSums {
    double* values;
    std::uint32_t count;
    int stride, sums, sum_stride;
    bool largest = false;
};

// Combines neighbours in pairs, an odd one carried.  Each value stays where it is until it is added to its left
// neighbour. `phase(f)` calls f(thread) for each of `threads` threads and then synchronizes them.
template <class Phase>
FO_HD inline void add_pairwise(const PairwiseSums& at, int threads, Phase phase) {
    for (std::uint32_t width = 1; width < at.count; width *= 2)
        phase([&](int thread) {
            for (std::uint32_t i = thread * 2 * width; i + width < at.count; i += threads * 2 * width)
                for (int k = 0; k < at.sums; ++k) {
                    double& left = at.values[std::size_t(i) * at.stride + k * at.sum_stride];
                    left = combine(at.largest, left, at.values[std::size_t(i + width) * at.stride + k * at.sum_stride]);
                }
        });
}

// The same sum of values that come one after another: complete subtrees wait for their right neighbours, in memory of
// kMost numbers.
class PairwiseSum {
  public:
    static constexpr int kMost = 64;

    FO_HD explicit PairwiseSum(double* subtrees, std::uint64_t count = 0) : count_(count), subtrees_(subtrees) {}

    FO_HD void add(double x) {
        int level = 0;
        for (std::uint64_t n = count_++; n & 1; n >>= 1) x = subtrees_[level++] + x;
        subtrees_[level] = x;
    }

    // Of at least one value.
    FO_HD double total() const {
        double sum = 0;
        bool is_first = true;
        for (int level = 0; count_ >> level; ++level) {
            if (!(count_ >> level & 1)) continue;
            sum = is_first ? subtrees_[level] : subtrees_[level] + sum;
            is_first = false;
        }
        return sum;
    }

  private:
    std::uint64_t count_;
    double* subtrees_;
};

// Combine value_of(0), value_of(1), ... one after another.
template <class ValueOf>
FO_HD inline double add_in_order(std::uint32_t count, ValueOf value_of, bool largest = false) {
    double sum = 0;
    for (std::uint32_t i = 0; i < count; ++i) sum = combine(largest, sum, value_of(i));
    return sum;
}

// Squares of float64 numbers overflow from 2^512 on, and lose digits below 2^-511.  Where an array's sum of squares is
// infinite, or so small that such digits count, a second pass adds the squares of its elements times this power of two.
// What vanishes under that scale is less than a rounding of the norm.  float32 has no such squares.
FO_HD inline double square_scale(double sum) { return sum == INFINITY ? 0x1p-538 : sum < 0x1p-800 ? 0x1p537 : 1; }

// Return the norm of a sum that was taken with this scale.
FO_HD inline double norm_of_sum(NormType type, double sum, double scale) {
    return type == NormType::kTwo ? std::sqrt(sum) / scale : sum;
}

// Return the norm of all arrays from those of each, whose squares or values are combined one after another.
template <class NormOf>
FO_HD inline double norm_in_order(NormType type, std::uint32_t count, NormOf norm_of) {
    if (type != NormType::kTwo) return add_in_order(count, norm_of, type == NormType::kInfinity);
    const auto sum = [&](double scale) {
        return add_in_order(count, [&](std::uint32_t i) {
            const double x = scale * norm_of(i);
            return x * x;
        });
    };
    const double squares = sum(1), scale = square_scale(squares);
    return norm_of_sum(type, scale == 1 ? squares : sum(scale), scale);
}

// Return the factor that brings a norm below a bound: with eps = 1e-6 as torch.nn.utils.clip_grad_norm_ does.
FO_HD inline double clip_factor(double bound, double norm, double eps) {
    if (bound == INFINITY || norm + eps == 0) return 1;
    const double factor = bound / (norm + eps);
    return factor > 1 ? 1 : factor;
}

// Return the factor of a cautious step from the number of its elements that agree with the gradient: the inverse of
// their share, of which at least 0.1 % are assumed.
FO_HD inline double cautious_scale(double agreeing, double size) {
    const double share = agreeing / size;
    return 1 / (share > 1e-3 ? share : 1e-3);
}

// What clip_norm makes of the gradient of one parameter: its factor, and the norm that remains.
struct ClippedNorm {
    double factor = 1, norm = 0;
};

FO_HD inline ClippedNorm clip_to_norm(double norm, double bound, double eps) {
    const double factor = clip_factor(bound, norm, eps);
    return {factor, factor != 0 ? factor * norm : 0};
}

}  // namespace fo::FO_TARGET
