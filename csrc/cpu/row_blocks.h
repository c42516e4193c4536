// Steps of rows: the rows of a block are copied from all arrays into dense memory, the loops of a dense step run on the
// copies, and the results are copied back.  So neither rules nor loops contain anything of rows, and a row has the bits
// that it would have in a dense array.
#pragma once

#include "../formats.h"
#include "../reduce.h"
#include "../rule_info.h"
#include "ahead.h"
#include "loop.h"
#include "row_pieces.h"
#include "staged_tile.h"

#include <cstring>

namespace fo::cpu {

// A tile's elements of a parameter, its state, its average and its copy, in the formats of these arrays, and of its
// gradient in the compute type.
class RowBlock {
    using Index = std::int64_t;

  public:
    RowBlock(const StepArgs& step, Index i, const GradientLoops& loops, const StorageLoops& storage_loops)
        : step_(step),
          from_(step.segments[i]),
          gradient_(step.gradients[i]),
          is_double_(from_.p.format == Format::kFloat64),
          decode_(is_double_ ? loops.decode_rows_f64 : loops.decode_rows_f32),
          storage_loops_(storage_loops),
          states_(element_states(rule_info(step.constants_of(i).rule))) {
        segment_ = from_;
        segment_.state = state_;
        if (from_.compression) {
            segment_.compression = compression_;
            for (std::size_t k = 0; k < states_; ++k) compression_[k] = {scales_[k], from_.compression[k].kind};
        }
        here_ = {memory_[0], gradient_.clip, gradient_.constants, compute_format(from_.p.format)};
        here_.row_factors = gradient_.row_factors;
    }

    // Update the elements from begin to end.
    void update(Update update, Index begin, Index end) {
        for (Index n = 0; begin < end; begin += n) {
            n = std::min(end - begin, kSumTile);
            if (const Index cut = (begin + n) % gradient_.rows->row_size; cut < n && begin + n < end) n -= cut;
            prefetch(begin + n, std::min(end - begin - n, kSumTile));
            here_.row_offset = begin;
            decode_(gradient_, begin, memory_[0], n);
            copy<true>(begin, n);
            for_constants(begin, n, [&](std::int32_t constants, Index first, Index last) {
                update_runs(update, step_.constants[constants], begin, first, last);
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

    // Sum each tile of rows in n elements.  The terms are of p and g alone.
    void sum_rows(Reduce sum, Index begin, Index n, double* sums) {
        const StepConstants& constants = step_.constants[gradient_.constants];
        decode_(gradient_, begin, memory_[0], n);
        segment_.p = {memory_[1], n, here_.format};
        for (std::size_t k = 0; k < states_; ++k) state_[k] = {memory_[k + 3], n, here_.format};
        segment_.extra = {};
        segment_.compression = nullptr;
        if (constants.l1 != 0 || constants.weight_decay != 0) copy_parameter<true>(begin, n);  // else it is not read
        sum_range(sum, storage_loops_, segment_, here_, constants, 0, n, sums);
    }

  private:
    // Update elements of the block: at once, or the elements of each row, where random numbers depend on its place.
    void update_runs(Update update, const StepConstants& constants, Index block, Index first, Index last) {
        if (!constants.rounds_randomly && !from_.compression)
            return update_range(update, storage_loops_, segment_, here_, constants, first, last);
        FO_TARGET::for_row_pieces(*gradient_.rows, block + first, last - first, [&](const FO_TARGET::RowPiece& piece) {
            const Index at = first + piece.at;
            segment_.first_element = gradient_.rows->index[piece.row] * gradient_.rows->row_size + piece.in_row - at;
            update_range(update, storage_loops_, segment_, here_, constants, at, at + piece.size);
        });
    }

    // Copy the block's part of each array that the update accesses here, or back.
    template <bool kHere>
    void copy(Index begin, Index n) {
        copy_parameter<kHere>(begin, n);
        for (std::size_t k = 0; k < states_; ++k) copy_state<kHere>(k, begin, n);
        if (from_.average.data) copy_array<kHere>(from_.average, segment_.average, 2, begin, n);
        if (from_.copy.data) copy_array<kHere>(from_.copy, segment_.copy, kMaxState + 3, begin, n);
    }

    template <bool kHere>
    void copy_state(std::size_t k, Index begin, Index n) {
        const ArrayRef& array = from_.state[k];
        if (!from_.compression || !has_blocks(from_.compression[k].kind))
            return copy_array<kHere>(array, state_[k], k + 3, begin, n);
        state_[k] = {memory_[k + 3], n, array.format};
        copy_items<kHere>(array.data, memory_[k + 3], 1, begin, n);
        for_row_pieces(begin, n, [&](const FO_TARGET::RowPiece& piece, Index at) {
            float* const there = from_.compression[k].scales + at / kCodeBlock;
            float* const here = scales_[k] + piece.at / kCodeBlock;
            const auto bytes = static_cast<std::size_t>(piece.size / kCodeBlock) * sizeof(float);
            std::memcpy(kHere ? here : there, kHere ? there : here, bytes);
        });
    }

    template <bool kHere>
    void copy_parameter(Index begin, Index n) {
        copy_array<kHere>(from_.p, segment_.p, 1, begin, n);
        if (const ExtraRef& extra = from_.extra; extra.kind != Extra::kNone) {
            segment_.extra = {memory_[kExtraAt], extra.kind};
            copy_items<kHere>(extra.data, memory_[kExtraAt], item_size(extra.kind), begin, n);
        }
    }

    template <bool kHere>
    void copy_array(const ArrayRef& array, ArrayRef& block, std::size_t which, Index begin, Index n) {
        block = {memory_[which], n, array.format};
        copy_items<kHere>(array.data, memory_[which], FO_TARGET::item_size(array.format), begin, n);
    }

    template <bool kHere>
    void copy_items(void* data, std::byte* block, std::size_t item, Index begin, Index n) {
        const auto copy_pieces = [&]<std::size_t kBytes>() {
            for_pieces(data, item, begin, n, [&](std::byte* there, std::size_t at, std::size_t bytes) {
                std::byte* const here = block + at;
                std::memcpy(kHere ? here : there, kHere ? there : here, bytes == kBytes ? kBytes : bytes);
            });
        };
        switch (static_cast<std::size_t>(gradient_.rows->row_size) * item) {
            case 4: return copy_pieces.template operator()<4>();
            case 8: return copy_pieces.template operator()<8>();
            case 12: return copy_pieces.template operator()<12>();
            case 16: return copy_pieces.template operator()<16>();
            default: return copy_pieces.template operator()<256>();
        }
    }

    // Call f(piece, its first element in the parameter).
    template <class F>
    void for_row_pieces(Index begin, Index n, F f) const {
        const Rows& rows = *gradient_.rows;
        FO_TARGET::for_row_pieces(rows, begin, n, [&](const FO_TARGET::RowPiece& piece) {
            f(piece, rows.index[piece.row] * rows.row_size + piece.in_row);
        });
    }

    // Call f(address in the array, offset in the block, bytes) for the pieces of an array.
    template <class F>
    void for_pieces(void* array, std::size_t item, Index begin, Index n, F f) const {
        auto* const data = static_cast<std::byte*>(array);
        for_row_pieces(begin, n, [&](const FO_TARGET::RowPiece& piece, Index at) {
            f(data + static_cast<std::size_t>(at) * item, static_cast<std::size_t>(piece.at) * item,
              static_cast<std::size_t>(piece.size) * item);
        });
    }

    // Rows are far apart: the processor's own prefetches do not reach the next one.
    void prefetch(Index begin, Index n) const {
        static constexpr std::size_t kLine = 64, kMostBytes = 256;
        const auto fetch = [&](const ArrayRef& array, bool has_codes = false) {
            const std::size_t item = has_codes ? 1 : FO_TARGET::item_size(array.format);
            for_pieces(array.data, item, begin, n, [](const std::byte* there, std::size_t, std::size_t bytes) {
                for (std::size_t at = 0; at < std::min(bytes, kMostBytes); at += kLine) FO_PREFETCH(there + at);
            });
        };
        fetch(from_.p);
        for (std::size_t k = 0; k < states_; ++k)
            fetch(from_.state[k], from_.compression && has_blocks(from_.compression[k].kind));
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
    const DecodeGradient decode_;
    const StorageLoops& storage_loops_;
    const std::size_t states_;
    Segment segment_;
    ArrayRef state_[kMaxState];
    CompressionRef compression_[kMaxState] = {};
    float scales_[kMaxState][kSumTile / kCodeBlock];
    Gradient here_;
    static constexpr std::size_t kExtraAt = kMaxState + 4;
    // Of the gradient, the parameter, the average, the state, the copy and the extra bits.
    alignas(64) std::byte memory_[kMaxState + 5][kSumTile * sizeof(double)];
};

}  // namespace fo::cpu
