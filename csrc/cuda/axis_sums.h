// The kernels of sums over the rows and columns of matrices, and of the moments and factors that follow from them.
//
// SumAxes adds blocks of a matrix, FinishAxes what remains of each row and column, in the order of ../reduce.h.
// UpdateMoments, AddGroups and RowFactors then do what the work functions in python/fastoptim/matrix do with NumPy.
#pragma once

#include "axis_work.h"
#include "reduce.h"

namespace fo::FO_TARGET {

inline constexpr int kAxisThreads = 256;
inline constexpr int kAxisRows = kAxisThreads / kLanes;  // rows that a block reads at once

// Return the work of a launch, which is in its arguments.
template <class Work>
FO_DEVICE inline const Work& work_of(const Arguments& arguments) {
    return *reinterpret_cast<const Work*>(arguments.bytes);
}

// Call f(i) for each i below a size, in a thread each.
template <int kThreads, class Block, class F>
FO_DEVICE inline void for_each_index(Block& block, std::int64_t size, F f) {
    block.each([&](int thread) {
        for (std::int64_t i = std::int64_t(block.index()) * kThreads + thread; i < size;
             i += std::int64_t(block.count()) * kThreads)
            f(i);
    });
}

// Combine the terms of up to kAxisRows tiles, and call use(i, result) for each in a thread.  size_of(i) is the size of
// tile i, term(i, k) its k-th term.  Each thread has one lane of a tile, in block.shared.
template <bool kLargest, class Block, class SizeOf, class Term, class Use>
FO_DEVICE inline void add_tiles(Block& block, std::uint32_t tiles, SizeOf size_of, Term term, Use use) {
    double* const lanes = block.shared;
    block.phase([&](int thread) {
        const std::uint32_t tile = std::uint32_t(thread) / kLanes;
        const std::int32_t size = tile < tiles ? size_of(tile) : 0;
        double sum = 0;
        for (std::int32_t k = thread % kLanes; k < size; k += kLanes) sum = combine(kLargest, sum, term(tile, k));
        lanes[thread] = sum;
    });
    for (int apart = 1; apart < kLanes; apart *= 2)
        block.phase([&](int thread) {
            if (thread % (2 * apart) == 0) lanes[thread] = combine(kLargest, lanes[thread], lanes[thread + apart]);
        });
    block.each([&](int thread) {
        const std::uint32_t tile = std::uint32_t(thread) / kLanes;
        if (thread % kLanes == 0 && tile < tiles) use(tile, lanes[thread]);
    });
}

// The squares of each unit, added, or the largest of its elements, which are not negative.
template <class T, bool kLargest>
struct SumAxes : Body<kAxisThreads, int(kSumTile) + kAxisThreads> {
    static constexpr const char* name = kLargest ? "largest of rows and columns" : "squares of rows and columns";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const auto& work = work_of<cuda::AxisWork>(arguments);
        for (std::int64_t unit = block.index(); unit < work.units(); unit += block.count()) add_unit(block, work, unit);
    }

  private:
    template <class Block>
    FO_DEVICE static void add_unit(Block& block, const cuda::AxisWork& work, std::int64_t unit) {
        const std::int64_t strip = unit % work.strips(), rows_before = unit / work.strips();
        const std::int64_t matrix = rows_before / work.blocks();
        const std::int64_t first = rows_before % work.blocks() * kRowBlock, column = strip * kSumTile;
        const std::int32_t height = std::int32_t(least(kRowBlock, work.rows - first));
        const std::int32_t width = std::int32_t(least(kSumTile, work.columns - column));
        const std::int64_t row = matrix * work.rows + first;
        const auto term = [&](std::int32_t i, std::int32_t k) {
            const std::int64_t place = (row + i) * work.columns + column;
            const T x =
                T(work.scale) * load_one<T>(work.format, work.data + place * std::int64_t(item_size(work.format)), k);
            return kLargest ? double(x) : double(x) * double(x);
        };
        double* const of_columns = block.shared + kAxisThreads;
        block.each([&](int thread) {
            for (std::int32_t k = thread; k < width; k += kAxisThreads) of_columns[k] = 0;
        });
        for (std::int32_t begin = 0; begin < height; begin += kAxisRows) {
            const std::int32_t end = std::int32_t(least(begin + kAxisRows, height));
            double* const of_rows = work.row_partials + (row + begin) * work.strips() + strip;
            if (work.row_partials)
                add_tiles<kLargest>(
                    block, std::uint32_t(end - begin), [&](std::uint32_t) { return width; },
                    [&](std::uint32_t i, std::int32_t k) { return term(begin + std::int32_t(i), k); },
                    [&](std::uint32_t i, double result) { of_rows[i * work.strips()] = result; });
            if (work.column_partials) add_columns(block, begin, end, width, term, of_columns);
        }
        if (!work.column_partials) return;
        block.each([&](int thread) {
            for (std::int32_t k = thread; k < width; k += kAxisThreads)
                work.column_partials[rows_before * work.columns + column + k] = of_columns[k];
        });
    }

    // Each thread has some of the columns, whose elements are in the first-level cache since their rows were read.
    template <class Block, class Term>
    FO_DEVICE static void add_columns(Block& block, std::int32_t begin, std::int32_t end, std::int32_t width, Term term,
                                      double* of_columns) {
        block.each([&](int thread) {
            for (std::int32_t k = thread; k < width; k += kAxisThreads) {
                double sum = of_columns[k];
                for (std::int32_t row = begin; row < end; ++row) sum = combine(kLargest, sum, term(row, k));
                of_columns[k] = sum;
            }
        });
    }

    FO_DEVICE static std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
};

// Combine the partial results of each row in pairs, and those of each column one after another.
template <bool kLargest>
struct FinishAxes : Body<kAxisThreads> {
    static constexpr const char* name = "results of rows and columns";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const auto& work = work_of<cuda::AxisWork>(arguments);
        const std::int64_t rows = work.row_results ? work.batch * work.rows : 0;
        const std::int64_t columns = work.column_results ? work.batch * work.columns : 0;
        for_each_index<kThreads>(block, rows + columns, [&](std::int64_t i) {
            if (i < rows)
                work.row_results[i] = of_row(work, i);
            else
                work.column_results[i - rows] = of_column(work, i - rows);
        });
    }

  private:
    FO_DEVICE static double of_row(const cuda::AxisWork& work, std::int64_t row) {
        double* const tiles = work.row_partials + row * work.strips();
        add_pairwise({tiles, std::uint32_t(work.strips()), 1, 1, 1, kLargest}, 1, [](auto f) { f(0); });
        return tiles[0];
    }

    FO_DEVICE static double of_column(const cuda::AxisWork& work, std::int64_t i) {
        const std::int64_t matrix = i / work.columns, column = i - matrix * work.columns;
        const double* const blocks = work.column_partials + matrix * work.blocks() * work.columns + column;
        return add_in_order(
            std::uint32_t(work.blocks()), [&](std::uint32_t k) { return blocks[k * work.columns]; }, kLargest);
    }
};

// Add each group of numbers as the terms of any array are added.
struct AddGroups : Body<kAxisThreads, kAxisThreads> {
    static constexpr const char* name = "sums of groups";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const auto& work = work_of<cuda::GroupsWork>(arguments);
        for (std::int64_t i = block.index(); i < work.groups; i += block.count())
            add(block, work.numbers + i * work.group, work.group);
    }

  private:
    // The sum of a tile takes the place of a number that was read before.
    template <class Block>
    FO_DEVICE static void add(Block& block, double* numbers, std::uint32_t count) {
        const std::uint32_t tiles = std::uint32_t(tiles_of(count));
        for (std::uint32_t tile = 0; tile < tiles; tile += kAxisRows) {
            const std::uint32_t end = tile + kAxisRows < tiles ? tile + kAxisRows : tiles;
            add_tiles<false>(
                block, end - tile,
                [&](std::uint32_t i) {
                    const std::int64_t left = std::int64_t(count) - (tile + i) * kSumTile;
                    return std::int32_t(left < kSumTile ? left : kSumTile);
                },
                [&](std::uint32_t i, std::int32_t k) { return numbers[(tile + i) * kSumTile + k]; },
                [&](std::uint32_t i, double sum) { numbers[tile + i] = sum; });
        }
        block.phase([](int) {});
        add_pairwise(block, kThreads, {numbers, tiles, 1, 1, 1});
    }
};

template <class T>
struct UpdateMoments : Body<kAxisThreads> {
    static constexpr const char* name = "moments";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const auto& work = work_of<cuda::MomentsWork>(arguments);
        for (std::int32_t k = 0; k < work.count; ++k) {
            const cuda::Moment& moment = work.moments[k];
            for_each_index<kThreads>(block, moment.size * moment.repeats, [&](std::int64_t i) { update(moment, i); });
        }
    }

  private:
    FO_DEVICE static void update(const cuda::Moment& moment, std::int64_t i) {
        const std::int64_t at = moment.repeats == 1 ? i : i / moment.repeats;
        const std::int64_t item = sizeof(T);
        const double mean = moment.sums[at * moment.group] / moment.count + moment.eps;
        const T next = T((1 - moment.weight) * double(load<T>(moment.old + at * item)) + moment.weight * mean);
        if (moment.factors)
            store(moment.factors + i * item, T(1 / (sqrt(double(next) / moment.divisor) + moment.summand)));
        if (at * moment.repeats != i) return;
        store(moment.updated + at * item, next);
        if (moment.wide) moment.wide[at] = double(next);
    }
};

template <class T>
struct RowFactors : Body<kAxisThreads> {
    static constexpr const char* name = "factors of rows";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const auto& work = work_of<cuda::RowFactorsWork>(arguments);
        const std::int64_t item = sizeof(T);
        for_each_index<kThreads>(block, work.size, [&](std::int64_t i) {
            const double mean = work.totals[i / work.rows * work.rows] / double(work.rows);
            const double r(load<T>(work.averages + i * item));
            store(work.factors + i * item, T(1 / sqrt(r / max(mean, work.least))));
        });
    }
};

}  // namespace fo::FO_TARGET
