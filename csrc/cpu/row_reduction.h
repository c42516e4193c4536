// The reduction of each row of a segment, for rules that keep a number for each row, and the factors of their elements.
#pragma once

#include "../reduce.h"
#include "../rule_info.h"
#include "loop.h"
#include "row_blocks.h"
#include "staged_tile.h"
#include "tile_sums.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <optional>

namespace fo::cpu {

// A tile of a parameter that is not in C order, and of its gradient, in C order: one element after another.
class ReorderedTile {
    using Index = std::int64_t;

  public:
    ReorderedTile(const StepArgs& step, Index i, const GradientLoops& loops, const StorageLoops& storage_loops)
        : from_(step.segments[i]),
          gradient_(step.gradients[i]),
          constants_(step.constants_of(i)),
          format_(compute_format(from_.p.format)),
          decode_(format_ == Format::kFloat64 ? loops.decode_f64 : loops.decode_f32),
          storage_loops_(storage_loops),
          here_(from_),
          gradient_here_{g_, gradient_.clip, gradient_.constants, format_} {
        here_.p.data = p_;
        here_.p.format = format_;
        here_.state = state_;
    }

    // Sum each tile of rows in n elements.  The terms are of p and g alone.
    void sum_rows(Reduce sum, Index begin, Index n, double* sums) {
        const std::size_t item = FO_TARGET::item_size(format_);
        const bool reads_p = constants_.l1 != 0 || constants_.weight_decay != 0;
        for (Index i = 0; i < n; ++i) {
            const Index at = from_.rows.order->place(begin + i);
            const std::size_t offset = static_cast<std::size_t>(i) * item;
            decode_(gradient_, at, g_ + offset, 1);
            if (reads_p) decode_parameter(at, p_ + offset);
        }
        here_.p.size = n;
        std::fill(std::begin(state_), std::end(state_), ArrayRef{p_, n, format_});
        sum(here_, gradient_here_, constants_, 0, n, sums);
    }

  private:
    void decode_parameter(Index at, std::byte* to) const {
        Ahead nothing;
        if (from_.p.format == format_)
            std::memcpy(to, FO_TARGET::element(from_.p.data, format_, at), FO_TARGET::item_size(format_));
        else
            storage_loops_.decode_parameter(from_, at, to, 1, nothing);
    }

    const Segment& from_;
    const Gradient& gradient_;
    const StepConstants& constants_;
    const Format format_;
    const DecodeGradient decode_;
    const StorageLoops& storage_loops_;
    Segment here_;
    Gradient gradient_here_;
    ArrayRef state_[kMaxState];
    alignas(64) std::byte g_[kSumTile * sizeof(double)], p_[kSumTile * sizeof(double)];
};

class RowReduction {
    using Index = std::int64_t;

  public:
    // `factors`: of all rows of the step, in the compute type.
    RowReduction(const StepArgs& step, Index i, const RuleLoops& rule, const GradientLoops& loops,
                 const StorageLoops& storage_loops, void* factors)
        : step_(step),
          segment_(step.segments[i]),
          gradient_(step.gradients[i]),
          constants_(step.constants_of(i)),
          storage_loops_(storage_loops),
          item_(FO_TARGET::item_size(compute_format(segment_.p.format))),
          sum_(item_ == sizeof(double) ? rule.sum_rows_f64 : rule.sum_rows_f32),
          finalize_(item_ == sizeof(double) ? rule.finalize_rows_f64 : rule.finalize_rows_f32),
          numbers_(static_cast<std::byte*>(segment_.state[element_states(rule_info(constants_.rule))].data)),
          factors_(static_cast<std::byte*>(factors)) {
        if (gradient_.rows) block_.emplace(step, i, loops, storage_loops);
        if (segment_.rows.order) reordered_.emplace(step, i, loops, storage_loops);
    }

    // Reduce the whole rows from element begin to end.
    void run(Index begin, Index end) {
        const Index row_size = segment_.rows.size, most = kSumTile / row_size * row_size;
        for (Index n = 0; begin < end; begin += n) {
            double sums[kSumTile];
            n = most ? std::min(end - begin, most) : row_size;
            prefetch(begin / row_size, n / row_size);
            if (most)
                sum(begin, n, sums);
            else
                sums[0] = sum_long_row(begin);
            finalize(begin / row_size, n / row_size, sums);
        }
    }

  private:
    // Sum each tile of rows in n elements that one tile can hold.
    void sum(Index begin, Index n, double* sums) {
        if (block_)
            block_->sum_rows(sum_, begin, n, sums);
        else if (reordered_)
            reordered_->sum_rows(sum_, begin, n, sums);
        else
            sum_range(sum_, storage_loops_, segment_, gradient_, constants_, begin, begin + n, sums);
    }

    double sum_long_row(Index begin) {
        double subtrees[FO_TARGET::PairwiseSum::kMost];
        FO_TARGET::PairwiseSum row(subtrees);
        FO_TARGET::for_row_tiles(segment_.rows.size, begin, begin + segment_.rows.size, [&](Index at, Index n) {
            double tile;
            sum(at, n, &tile);
            row.add(tile);
        });
        return row.total();
    }

    void finalize(Index first, Index n, const double* sums) {
        const auto call = [&](const StepConstants& constants, Index i, Index count) {
            const Index row = first + i;
            const Index* const index = gradient_.rows ? gradient_.rows->index + row : nullptr;
            finalize_(constants, segment_.rows.size, sums + i, index ? numbers_ : at(numbers_, row), index,
                      at(factors_, row), count);
        };
        if (!gradient_.rows || !gradient_.rows->constants) return call(constants_, 0, n);
        for (Index i = 0; i < n; ++i) call(step_.constants[gradient_.rows->constants[first + i]], i, 1);
    }

    // The numbers of selected rows are far apart.
    void prefetch(Index first, Index n) const {
        if (!gradient_.rows) return;
        for (Index row = first; row < first + n; ++row) FO_PREFETCH(at(numbers_, gradient_.rows->index[row]));
    }

    std::byte* at(std::byte* array, Index row) const { return array + static_cast<std::size_t>(row) * item_; }

    const StepArgs& step_;
    const Segment& segment_;
    const Gradient& gradient_;
    const StepConstants& constants_;
    const StorageLoops& storage_loops_;
    const std::size_t item_;  // bytes of a number
    const Reduce sum_;
    const FinalizeRows finalize_;
    std::byte *const numbers_, *const factors_;
    std::optional<RowBlock> block_;
    std::optional<ReorderedTile> reordered_;
};

}  // namespace fo::cpu
