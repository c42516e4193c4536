#include "axis_sums.h"

#include "../float_environment.h"
#include "../reduce.h"
#include "device.h"
#include "parallel.h"

#include <algorithm>

namespace fo::cpu {
namespace {

using Index = std::int64_t;

Index divide_up(Index a, Index b) { return (a + b - 1) / b; }

// The unit of work is a block of kRowBlock rows and kSumTile columns, whose column sums stay in the first-level cache.
class SquareSums {
  public:
    SquareSums(const Matrices& matrices, const AxisLoops& loops)
        : at_(matrices),
          add_(matrices.array.format == Format::kFloat64 ? loops.f64 : loops.f32),
          blocks_(divide_up(matrices.rows, kRowBlock)),
          strips_(divide_up(matrices.columns, kSumTile)),
          of_rows_(static_cast<std::size_t>(matrices.batch * matrices.rows * strips_)),
          of_columns_(static_cast<std::size_t>(matrices.batch * blocks_ * matrices.columns)) {}

    AxisSums sums() {
        const Index unit = std::min(at_.rows, kRowBlock) * std::min(at_.columns, kSumTile);
        if (unit > 0) run({&run_units, this, at_.batch * blocks_ * strips_, divide_up(kMinShare, unit), 1});
        const DefaultFloatEnvironment environment;
        return {row_sums(), column_sums()};
    }

  private:
    static void run_units(const void* context, Index begin, Index end) {
        const DefaultFloatEnvironment environment;
        for (Index i = begin; i < end; ++i) static_cast<const SquareSums*>(context)->add_block(i);
    }

    void add_block(Index unit) const {
        const Index strip = unit % strips_, block = unit / strips_, matrix = block / blocks_;
        const Index first = block % blocks_ * kRowBlock, row = matrix * at_.rows + first, column = strip * kSumTile;
        void* const data = FO_TARGET::element(at_.array.data, at_.array.format, row * at_.columns + column);
        add_({data, 0, at_.array.format}, at_.columns, std::min(kRowBlock, at_.rows - first),
             std::min(kSumTile, at_.columns - column), of_rows_.data() + row * strips_ + strip, strips_,
             of_columns_.data() + block * at_.columns + column);
    }

    // Add the tiles of each row in pairs.
    std::vector<double> row_sums() {
        const auto on_this_thread = [](auto f) { f(0); };
        std::vector<double> sums(static_cast<std::size_t>(at_.batch * at_.rows));
        for (std::size_t i = 0; i < sums.size() && strips_ > 0; ++i) {
            double* const tiles = of_rows_.data() + Index(i) * strips_;
            FO_TARGET::add_pairwise({tiles, static_cast<std::uint32_t>(strips_), 1, 1, 1}, 1, on_this_thread);
            sums[i] = tiles[0];
        }
        return sums;
    }

    std::vector<double> column_sums() const {
        std::vector<double> sums(static_cast<std::size_t>(at_.batch * at_.columns));
        for (Index block = 0; block < at_.batch * blocks_; ++block) {
            const double* const from = of_columns_.data() + block * at_.columns;
            double* const to = sums.data() + block / blocks_ * at_.columns;
            for (Index i = 0; i < at_.columns; ++i) to[i] += from[i];
        }
        return sums;
    }

    const Matrices at_;
    const AddSquares add_;
    const Index blocks_, strips_;                       // in a matrix
    mutable std::vector<double> of_rows_, of_columns_;  // of each row in each strip, of each column in each block
};

}  // namespace

AxisSums square_sums(const Matrices& matrices, const AxisLoops& loops) { return SquareSums(matrices, loops).sums(); }

}  // namespace fo::cpu
