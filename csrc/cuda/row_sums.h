// The kernel that reduces the rows of arrays, for rules that keep a number for each row, and computes the factors of
// their elements, which the update reads as a state array that is broadcast.
#pragma once

#include "axis_sums.h"
#include "broadcast.h"

namespace fo::FO_TARGET {

// The terms of the sums of a tensor's rows.
template <class R, class T>
struct RowTerms {
    const TensorDesc& tensor;
    const RowDesc& rows;
    const Prepare<T> prepare;
    const ReduceTerms<R> terms_of;

    // Return the term of the element with this place in C order.
    FO_DEVICE double operator()(std::int64_t i) const {
        if (rows.order.count > 0) i = broadcast_element(rows.order, i).offset;
        const bool reads_p = prepare.has_l1 != T(0) || prepare.has_weight_decay != T(0);
        T p = reads_p ? load_at(tensor.p_format, tensor.p, i) : T(0);
        const T g = load_at(tensor.g_format, tensor.g, i);
        T unread[R::state.size()][kItemsPerThread] = {};
        return apply(terms_of, p, prepare.gradient(g, p), unread, 0, kStateOf<R>)[0];
    }

  private:
    FO_DEVICE static T load_at(Format format, const char* array, std::int64_t i) {
        return load_one<T>(format, array + i * std::int64_t(item_size(format)), 0);
    }
};

template <class R, class T>
struct ReduceRows : Body<kAxisThreads, kAxisThreads + kAxisRows * PairwiseSum::kMost> {
    static constexpr const char* name = "numbers of rows";

    // A unit is kAxisRows rows.
    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        if (is_skipped(arguments)) return;
        const TensorTable table(arguments);
        std::int64_t unit = block.index();
        for (std::uint32_t i = 0; i < table.count(); ++i) {
            const TensorDesc& tensor = table.tensor(i);
            const std::int64_t units = (rows_of<R>(tensor).count + kAxisRows - 1) / kAxisRows;
            for (; unit < units; unit += block.count())
                reduce(block, arguments, tensor, table.template constants<T>(tensor), unit * kAxisRows);
            unit -= units;
        }
    }

  private:
    template <class Block>
    FO_DEVICE static void reduce(Block& block, const Arguments& arguments, const TensorDesc& tensor,
                                 const KernelConstants<T>& constants, std::int64_t first) {
        const R& rule = *reinterpret_cast<const R*>(constants.rule);
        const RowDesc& rows = rows_of<R>(tensor);
        const RowTerms<R, T> terms{tensor, rows, prepare_of(arguments, tensor, constants), {rule}};
        const std::int64_t left = rows.count - first, tiles = tiles_of(rows.size);
        const auto count = std::uint32_t(left < kAxisRows ? left : kAxisRows);
        const auto subtrees_of = [&](std::uint32_t row) {
            return block.shared + kAxisThreads + row * PairwiseSum::kMost;
        };
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
            const std::int64_t begin = tile * kSumTile, size = rows.size - begin;
            add_tiles<false>(
                block, count, [=](std::uint32_t) { return std::int32_t(size < kSumTile ? size : kSumTile); },
                [&](std::uint32_t row, std::int32_t k) { return terms((first + row) * rows.size + begin + k); },
                [&](std::uint32_t row, double sum) { PairwiseSum(subtrees_of(row), std::uint64_t(tile)).add(sum); });
        }
        block.each([&](int thread) {
            const std::uint32_t row = std::uint32_t(thread) / kLanes;
            if (thread % kLanes > 0 || row >= count) return;
            const double sum = PairwiseSum(subtrees_of(row), std::uint64_t(tiles)).total();
            finalize(rule, tensor, rows, first + row, sum / double(rows.size), terms.prepare.flushes);
        });
    }

    FO_DEVICE static void finalize(const R& rule, const TensorDesc& tensor, const RowDesc& rows, std::int64_t row,
                                   double mean, bool flushes) {
        const std::int64_t at = row * std::int64_t(sizeof(T));
        T number = load<T>(rows.numbers + at);
        const T factor = rule.row_factor(mean, number);
        store(pointers_of<char>(tensor)[R::state.size() - 1] + at, factor);
        store(rows.numbers + at, flushes ? flush_subnormal(number) : number);
    }
};

}  // namespace fo::FO_TARGET
