// Sums that depend on no rule: the terms of a gradient's norm, and squares along the axes of a matrix.
#include "../prepare.h"
#include "ahead.h"
#include "stages.h"
#include "tile_sums.h"

#include <cstring>

namespace fo::cpu::FO_ISA {

using namespace FO_TARGET;

namespace {

// The lanes of a register, or one of them.
#if !defined(__GNUC__)
struct LanePack {
    double lane;
    LanePack& operator+=(const LanePack& other) { return lane += other.lane, *this; }
};
#elif defined(__AVX512F__)
typedef double LanePack __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef double LanePack __attribute__((vector_size(32)));
#else
typedef double LanePack __attribute__((vector_size(16)));
#endif

// How many elements ahead of a tile sum_long_tile is to fetch.
constexpr Index kAhead = 2 * kSumTile;

// As sum_tile for one sum over long arrays, whose elements `later` on it fetches.  GCC keeps the lanes of sum_tile in
// memory, and the loops of this file are compiled without prefetches: the one and the other made reading an array that
// no cache holds take twice as long.
template <class T, class Terms>
void sum_long_tile(const Terms terms, Index n, const T* later, double* sum) {
    constexpr Index kFew = 8 * kLanes;  // below, the lanes in registers do not pay
    constexpr std::size_t kPack = sizeof(LanePack) / sizeof(double), kPacks = kLanes / kPack;
    if (n < kFew || n % kLanes != 0) return sum_tile<1>(terms, n, sum);
    LanePack packs[kPacks] = {};
    for (Index i = 0; i < n; i += kLanes) {
        for (std::size_t at = 0; at < kLanes * sizeof(T); at += kCacheLine)
            FO_PREFETCH(reinterpret_cast<const std::byte*>(later + i) + at);
        alignas(64) double own[kLanes];
        FO_IVDEP
        for (int lane = 0; lane < kLanes; ++lane) own[lane] = terms(i + lane)[0];
        for (std::size_t pack = 0; pack < kPacks; ++pack) {
            LanePack term;
            std::memcpy(&term, own + pack * kPack, sizeof term);
            packs[pack] += term;
        }
    }
    double lanes[kLanes];
    std::memcpy(lanes, packs, sizeof packs);
    *sum = add_lanes<kLanes, false>(lanes);
}

// Whether a sum of these terms is finite exactly if all elements are: in float64 those of float32 do not overflow.
template <class T>
bool sum_tells_nonfinite(const Prepare<T>& prepare) {
    return sizeof(T) == 4 && prepare.bound == T(INFINITY);
}

// The terms of the norm of a segment's gradient in each tile from first to last; a Reduce of loop.h.
template <class T, NormType kType, bool kScaled = false>
void reduce_gradient(const Segment& segment, const Gradient& gradient, const StepConstants& constants, Index first,
                     Index last, double* sums) {
    constexpr bool kLargest = kType == NormType::kInfinity;
    const Prepare<T> prepare(constants, gradient);
    const bool in_place = gradient.format == kComputeFormat<T> && !gradient.axes, tells = sum_tells_nonfinite(prepare);
    alignas(64) Cell<T> copy[kSumTile];
    for_tiles(segment, first, last, sums, [&](Index begin, Index n, double* out) {
        if (!in_place) decode_gradient<T>(gradient, begin, copy, n);
        const Cell<T>* const g = in_place ? cells_of<T>(gradient.data) + begin : copy;
        const auto terms = [g, prepare](Index i) { return gradient_terms<kType, kScaled>(prepare, g[i].value); };
        if (!tells || kScaled) return sum_tile<kGradientTerms, kLargest>(terms, n, out);
        const auto term = [g, prepare](Index i) {
            return std::array{norm_term<kType>(double(prepare.scaled(g[i].value)))};
        };
        const bool fetches = in_place && begin + n + kAhead <= segment.p.size;
        if constexpr (kLargest)
            sum_tile<1, true>(term, n, out);
        else
            sum_long_tile(term, n, g + (fetches ? kAhead : 0), out);
        out[1] = out[0] - out[0];
    });
}

// Add the squares of a block of a matrix to the sums of its rows and columns.
template <class T>
void add_squares(const ArrayRef& block, Index row_stride, Index rows, Index n, double* row_sums, Index sums_stride,
                 double* column_sums) {
    alignas(64) Cell<T> copy[kSumTile];
    const Index rows_ahead = (kAhead + n - 1) / n;
    for (Index row = 0; row < rows; ++row) {
        const void* from = element(block.data, block.format, row * row_stride);
        const void* const later = element(block.data, block.format, (row + rows_ahead) * row_stride);
        const auto* x = static_cast<const Cell<T>*>(from);
        if (block.format != kComputeFormat<T>) {
            decode<T>(block.format, from, copy, n);
            x = copy;
        }
        sum_long_tile(
            [x, column_sums](Index i) {
                const double wide(x[i].value), square = wide * wide;
                column_sums[i] += square;
                return std::array{square};
            },
            n, static_cast<const T*>(later), row_sums + row * sums_stride);
    }
}

}  // namespace

const GradientLoops kGradientLoops{{&reduce_gradient<float, NormType::kTwo>, &reduce_gradient<float, NormType::kOne>,
                                    &reduce_gradient<float, NormType::kInfinity>},
                                   {&reduce_gradient<double, NormType::kTwo>, &reduce_gradient<double, NormType::kOne>,
                                    &reduce_gradient<double, NormType::kInfinity>},
                                   &reduce_gradient<double, NormType::kTwo, true>,
                                   &decode_rows<float>,
                                   &decode_rows<double>,
                                   &decode_gradient<float>,
                                   &decode_gradient<double>};

const AxisLoops kAxisLoops{&add_squares<float>, &add_squares<double>};

}  // namespace fo::cpu::FO_ISA
