// Sums that depend on no rule: the terms of a gradient's norm, and squares along the axes of a matrix.
#include "../prepare.h"
#include "stages.h"
#include "tile_sums.h"

namespace fo::cpu::FO_ISA {

using namespace FO_TARGET;

namespace {

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
        if (!tells || kScaled)
            return sum_tile<kGradientTerms, kLargest>(
                [g, prepare](Index i) { return gradient_terms<kType, kScaled>(prepare, g[i].value); }, n, out);
        sum_tile<1, kLargest>(
            [g, prepare](Index i) { return std::array{norm_term<kType>(double(prepare.scaled(g[i].value)))}; }, n, out);
        out[1] = out[0] - out[0];
    });
}

// Add the squares of a block of a matrix to the sums of its rows and columns.
template <class T>
void add_squares(const ArrayRef& block, Index row_stride, Index rows, Index n, double* row_sums, Index sums_stride,
                 double* column_sums) {
    alignas(64) Cell<T> copy[kSumTile];
    for (Index row = 0; row < rows; ++row) {
        const void* from = element(block.data, block.format, row * row_stride);
        const auto* x = static_cast<const Cell<T>*>(from);
        if (block.format != kComputeFormat<T>) {
            decode<T>(block.format, from, copy, n);
            x = copy;
        }
        sum_tile<1>(
            [x, column_sums](Index i) {
                const double wide(x[i].value), square = wide * wide;
                column_sums[i] += square;
                return std::array{square};
            },
            n, row_sums + row * sums_stride);
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
