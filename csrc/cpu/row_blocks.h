// Steps of rows: the rows of a block are copied from all arrays into dense memory, the loops of a dense step run on the
// copies, and the results are copied back.  So neither rules nor loops contain anything of rows, and a row has the bits
// that it would have in a dense array.
#pragma once

#include "../formats.h"
#include "../reduce.h"
#include "../rule_info.h"
#include "loop.h"
#include "row_pieces.h"

#include <cstring>

#if defined(__GNUC__)
#define FO_PREFETCH(ADDRESS) __builtin_prefetch(ADDRESS)
#else
#define FO_PREFETCH(ADDRESS)
#endif

namespace fo::cpu {

// A tile's elements of a parameter, its state, its average and its copy, in the formats of these arrays, and of its
// gradient in the compute type.
class RowBlock {
    using Index = std::int64_t;

  public:
    RowBlock(const StepArgs& step, Index i, const GradientLoops& loops)
        : step_(step),
          from_(step.segments[i]),
          gradient_(step.gradients[i]),
          is_double_(from_.p.format == Format::kFloat64),
          decode_(is_double_ ? loops.decode_rows_f64 : loops.decode_rows_f32),
          states_(rule_info(step.constants_of(i).rule).state.size()) {
        segment_ = from_;
        segment_.state = state_;
        here_ = {memory_[0], gradient_.clip, gradient_.constants, compute_format(from_.p.format)};
    }

    // Update the elements from begin to end.
    void update(Update update, Index begin, Index end) {
        for (Index n = 0; begin < end; begin += n) {
            n = std::min(end - begin, kSumTile);
            if (const Index cut = (begin + n) % gradient_.rows->row_size; cut < n && begin + n < end) n -= cut;
            prefetch(begin + n, std::min(end - begin - n, kSumTile));
            decode_(gradient_, begin, memory_[0], n);
            copy<true>(begin, n);
            for_constants(begin, n, [&](std::int32_t constants, Index first, Index last) {
                update(segment_, here_, step_.constants[constants], first, last);
            });
            copy<false>(begin, n);
        }
    }

    // Write the sums of tiles of the gradient, kMaxSums apart.
    void reduce(Reduce reduce, Index first, Index last, double* sums) {
        for (Index tile = first; tile < last; ++tile, sums += kMaxSums) {
            const Index begin = tile * kSumTile, n = std::min(gradient_.rows->size() - begin, kSumTile);
            decode_(gradient_, begin, memory_[0], n);
            segment_.p.size = n;
            reduce(segment_, here_, step_.constants[gradient_.constants], 0, 1, sums);
        }
    }

  private:
    // Copy the block's part of each array that the update accesses here, or back.
    template <bool kHere>
    void copy(Index begin, Index n) {
        copy_array<kHere>(from_.p, segment_.p, 1, begin, n);
        for (std::size_t k = 0; k < states_; ++k) copy_array<kHere>(from_.state[k], state_[k], k + 3, begin, n);
        if (from_.average.data) copy_array<kHere>(from_.average, segment_.average, 2, begin, n);
        if (from_.copy.data) copy_array<kHere>(from_.copy, segment_.copy, kMaxState + 3, begin, n);
    }

    template <bool kHere>
    void copy_array(const ArrayRef& array, ArrayRef& block, std::size_t which, Index begin, Index n) {
        block = {memory_[which], n, array.format};
        const auto copy_pieces = [&]<std::size_t kBytes>() {
            for_pieces(array, begin, n, [&](std::byte* there, std::size_t at, std::size_t bytes) {
                std::byte* const here = memory_[which] + at;
                std::memcpy(kHere ? here : there, kHere ? there : here, bytes == kBytes ? kBytes : bytes);
            });
        };
        switch (static_cast<std::size_t>(gradient_.rows->row_size) * FO_TARGET::item_size(array.format)) {
            case 4: return copy_pieces.template operator()<4>();
            case 8: return copy_pieces.template operator()<8>();
            case 12: return copy_pieces.template operator()<12>();
            case 16: return copy_pieces.template operator()<16>();
            default: return copy_pieces.template operator()<256>();
        }
    }

    // Call f(address in the array, offset in the block, bytes) for the pieces of an array.
    template <class F>
    void for_pieces(const ArrayRef& array, Index begin, Index n, F f) const {
        const std::size_t item = FO_TARGET::item_size(array.format);
        const Rows& rows = *gradient_.rows;
        auto* const data = static_cast<std::byte*>(array.data);
        FO_TARGET::for_row_pieces(rows, begin, n, [&](const FO_TARGET::RowPiece& piece) {
            const Index at = rows.index[piece.row] * rows.row_size + piece.in_row;
            f(data + static_cast<std::size_t>(at) * item, static_cast<std::size_t>(piece.at) * item,
              static_cast<std::size_t>(piece.size) * item);
        });
    }

    // Rows are far apart: the processor's own prefetches do not reach the next one.
    void prefetch(Index begin, Index n) const {
        static constexpr std::size_t kLine = 64, kMostBytes = 256;
        const auto fetch = [&](const ArrayRef& array) {
            for_pieces(array, begin, n, [](const std::byte* there, std::size_t, std::size_t bytes) {
                for (std::size_t at = 0; at < std::min(bytes, kMostBytes); at += kLine) FO_PREFETCH(there + at);
            });
        };
        fetch(from_.p);
        for (std::size_t k = 0; k < states_; ++k) fetch(from_.state[k]);
        if (from_.average.data) fetch(from_.average);
    }

    // Call f(constants, first, last) for the runs of a block whose rows have the same constants.
    template <class F>
    void for_constants(Index begin, Index n, F f) {
        const std::int32_t* const constants = gradient_.rows->constants;
        if (!constants) return f(gradient_.constants, 0, n);
        Index first = 0;
        std::int32_t last_constants = constants[begin / gradient_.rows->row_size];
        FO_TARGET::for_row_pieces(*gradient_.rows, begin, n, [&](const FO_TARGET::RowPiece& piece) {
            if (constants[piece.row] == last_constants) return;
            f(last_constants, first, piece.at);
            first = piece.at;
            last_constants = constants[piece.row];
        });
        f(last_constants, first, n);
    }

    const StepArgs& step_;
    const Segment& from_;
    const Gradient& gradient_;
    const bool is_double_;
    const DecodeRows decode_;
    const std::size_t states_;
    Segment segment_;
    ArrayRef state_[kMaxState];
    Gradient here_;
    // Of the gradient, the parameter, the average, the state and the copy.
    alignas(64) std::byte memory_[kMaxState + 4][kSumTile * sizeof(double)];
};

}  // namespace fo::cpu
