// The kernels for arrays that an update does not take as they are stored: parameters of 16 bits that have extra bits or
// are rounded randomly, and compressed state.  A thread decodes its elements, updates them and encodes them again.  The
// threads that share a block of codes find its largest element by exchanges between registers.
//
// Main types: UpdateStaged and ReduceStaged, the kernels.  Chunks begin at element 0 and consist of whole blocks.
#pragma once

#include "staged_arrays.h"

namespace fo::FO_TARGET {

static_assert(kChunk % kCodeBlock == 0 && kSumTile % kCodeBlock == 0);

// Whether the rule needs the kernels: there are no float64 parameters with extra bits, and numbers of rows stay native.
// Sums of float64 with four state arrays would need more registers than there are.
template <class R, class T>
inline constexpr bool kStages =
    !kHasRowState<R> && (sizeof(T) == 4 || (R::state.size() > 0 && (kSums<R> == 0 || R::state.size() < 4)));

// Elements that a thread of an update has at a time: those of a warp are a block.
inline constexpr int kStagedItems = 2;

// The update of chunks of one array.
template <class R, class T>
class StagedChunk {
    static constexpr int kItems = kStagedItems;
    using F = Prepared<R, T>;

  public:
    struct Items {
        StagedState<R, T, kItems> state;
        Largest<R> largest;
        RandomItems<kItems> random;
    };

    FO_DEVICE StagedChunk(const Arguments& arguments, const TensorDesc& tensor, const KernelConstants<T>& constants,
                          std::int64_t begin, const RandomKeys<R>& keys)
        : arguments_(arguments),
          tensor_(tensor),
          staged_(staged_of<R>(tensor)),
          constants_(constants),
          keys_(keys),
          begin_(begin),
          arrays_(tensor, begin, tensor.aligned16_mask) {}

    FO_DEVICE bool counts() const { return arguments_.workspace.counts; }
    FO_DEVICE bool has_blocks_at(int k) const { return has_blocks(arrays_.kind(k)); }

    // Update a thread's elements and store them, except for the state.  If the launch counts the elements whose step
    // agrees with the gradient, store nothing and return how many do.
    FO_DEVICE std::uint32_t update(Items& items, const ThreadItems& span) const {
        StagedState<R, T, kItems>& state = items.state;
        const bool averages = constants_.prepare.averages;
        char* const average_at = tensor_.average + begin_ * std::int64_t(sizeof(T));
        T g[kItems], average[kItems];
        StagedParameter<T, kItems> p(tensor_, staged_, begin_, tensor_.aligned16_mask);
        if (averages) load_own<true>(average_at, span, tensor_.aligned16_mask & kAlignedAverage, average);
        p.load(span);
        load_as_is<true>(tensor_.g_format, tensor_.g + begin_ * std::int64_t(item_size(tensor_.g_format)), span,
                         tensor_.aligned16_mask & kAlignedG, g);
        state.load(arrays_, span);
        p.decode();
        decode(tensor_.g_format, g);
        state.decode(arrays_);

        const F f = prepared_of<R>(arguments_, tensor_, constants_);
        const Finish<T> finish = finish_of(arguments_, tensor_, constants_);
        std::uint32_t agreeing = 0;
        FO_NO_UNROLL
        for (int e = 0; e < kItems; ++e) {
            if (move(f, finish, p.value[0], g[0], state.value, 0) && has<T>(span, e)) ++agreeing;
            rotate(p.value);
            rotate(g);
            state.rotate_all();
        }
        if (counts()) return agreeing;

        if (tensor_.copy) store_copy<true>(tensor_.copy_format, tensor_.copy + begin_ * 2, span, p.value);
        if (averages) {
            FO_UNROLL
            for (int e = 0; e < kItems; ++e) average[e] = f.prepare.averaged(average[e], p.value[e]);
            if (f.prepare.flushes) flush_all(average);
            store_own<true>(average_at, span, tensor_.aligned16_mask & kAlignedAverage, average);
        }
        if (f.prepare.flushes) state.flush();
        items.random = RandomItems<kItems>(staged_, begin_, span, T());
        p.store(span, constants_.rounds_randomly, items.random, keys_.rounding());
        items.largest = {};
        state.template find_largest<F>(arrays_, span, items.largest);
        return 0;
    }

    FO_DEVICE void store_state(Items& items, const ThreadItems& span) const {
        items.state.template store<F>(arrays_, span, items.largest, constants_.prepare.flushes, items.random, keys_);
    }

  private:
    const Arguments& arguments_;
    const TensorDesc& tensor_;
    const StagedDesc& staged_;
    const KernelConstants<T>& constants_;
    const RandomKeys<R>& keys_;
    const std::int64_t begin_;
    const StagedArrays<R, T> arrays_;
};

// Let the neighbouring threads that share a block have its largest magnitudes.
template <int kThreads, class R, class Block, class Registers, class HasBlocks>
FO_DEVICE inline void exchange_largest(Block& block, Registers& items, HasBlocks has_blocks) {
    FO_UNROLL
    for (int k = 0; k < int(R::state.size()); ++k)
        if (has_blocks(k))
            block.template find_largest<kThreads>(items, [=](auto& own) -> std::int32_t& { return own.largest.of[k]; });
    block.sync_neighbors();
}

// A warp has a block of codes at a time.
template <class R, class T>
struct UpdateStaged {
    using Takes = Arguments;
    static constexpr const char* name = "update of staged arrays";
    static constexpr int kThreads = kUpdateThreads;
    static constexpr int kBlocks = kUpdateBlocks<R, T>;
    static constexpr int kShared = RandomKeys<R>::kDoubles;

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        if (is_skipped(arguments)) return;
        for_chunks(block, arguments,
                   [&](const TensorTable& table, const TensorDesc& tensor, std::int64_t begin, std::int32_t,
                       std::int32_t high) {
                       const KernelConstants<T>& constants = table.template constants<T>(tensor);
                       const RandomKeys<R> keys(block, block.shared, staged_of<R>(tensor), constants, begin);
                       const StagedChunk<R, T> chunk(arguments, tensor, constants, begin, keys);
                       for (std::int32_t first = 0; first < high; first += kThreads * kStagedItems)
                           update(block, arguments.workspace, chunk, first, high, tensor.index);
                       block.phase([](int) {});  // the keys are no longer read
                   });
    }

  private:
    template <class Block>
    FO_DEVICE static void update(Block& block, const Workspace& workspace, const StagedChunk<R, T>& chunk,
                                 std::int32_t first, std::int32_t high, std::uint32_t index) {
        const auto span = [=](int thread) { return ThreadItems{first + thread * kStagedItems, 0, 0, high}; };
        typename Block::template Registers<typename StagedChunk<R, T>::Items> items(block);
        block.each([&](int thread) {
            const std::uint32_t agreeing = chunk.update(items[thread], span(thread));
            if (agreeing > 0) block.add(workspace.agreeing[index], agreeing);
        });
        if (chunk.counts()) return;
        exchange_largest<kCodeBlock / kStagedItems, R>(block, items, [&](int k) { return chunk.has_blocks_at(k); });
        block.each([&](int thread) { chunk.store_state(items[thread], span(thread)); });
    }
};

// The sums that a rule needs.  A block of codes is two rows of four threads, which are loaded together.
template <class R, class T>
class StagedSums {
    static constexpr int kRows = kCodeBlock / kLanes;
    using F = ReduceTerms<R>;

  public:
    struct Items {
        StagedState<R, T, kItemsPerThread> state[kRows];
        Largest<R> largest;
        double lanes[R::sums][kItemsPerThread] = {};
    };

    FO_DEVICE StagedSums(const Arguments& arguments, const TensorDesc& tensor, const KernelConstants<T>& constants,
                         std::int64_t begin, const RandomKeys<R>& keys)
        : tensor_(tensor),
          staged_(staged_of<R>(tensor)),
          prepare_(prepare_of(arguments, tensor, constants)),
          terms_of_(reduce_terms_of<R>(arguments, tensor, constants)),
          keys_(keys),
          begin_(begin),
          arrays_(tensor, begin, tensor.sum_aligned16_mask) {}

    FO_DEVICE bool has_blocks_at(int k) const { return has_blocks(arrays_.kind(k)); }

    // Add the terms of a thread's elements to its lanes; the first row begins at `first`.
    FO_DEVICE void add(Items& items, std::int32_t first, std::int32_t high) const {
        items.largest = {};
        FO_NO_UNROLL
        for (int row = 0; row < kRows; ++row) {
            const ThreadItems span = span_of(first, row, high);
            add_row(items.state[0], span, items.lanes);
            items.state[0].template find_largest<F>(arrays_, span, items.largest);
            rotate(items.state);
        }
    }

    FO_DEVICE void store_state(Items& items, std::int32_t first, std::int32_t high) const {
        FO_NO_UNROLL
        for (int row = 0; row < kRows; ++row) {
            const ThreadItems span = span_of(first, row, high);
            items.state[0].template store<F>(arrays_, span, items.largest, false,
                                             RandomItems<kItemsPerThread>(staged_, begin_, span, T()), keys_);
            rotate(items.state);
        }
    }

  private:
    FO_DEVICE static ThreadItems span_of(std::int32_t first, int row, std::int32_t high) {
        return {first + row * kLanes, kGroup<T>, 0, high};
    }

    FO_DEVICE void add_row(StagedState<R, T, kItemsPerThread>& state, const ThreadItems& span,
                           double (&lanes)[R::sums][kItemsPerThread]) const {
        T g[kItemsPerThread];
        StagedParameter<T, kItemsPerThread> p(tensor_, staged_, begin_, tensor_.sum_aligned16_mask);
        p.load(span);
        load_as_is<true>(tensor_.g_format, tensor_.g + begin_ * std::int64_t(item_size(tensor_.g_format)), span,
                         tensor_.sum_aligned16_mask & kAlignedG, g);
        state.load(arrays_, span);
        p.decode();
        decode(tensor_.g_format, g);
        state.decode(arrays_);
        FO_UNROLL
        for (int e = 0; e < kItemsPerThread; ++e) {
            if (!has<T>(span, e)) continue;
            T x = p.value[e];
            const auto terms = apply(terms_of_, x, prepare_.gradient(g[e], x), state.value, e, kStateOf<R>);
            FO_UNROLL
            for (int k = 0; k < R::sums; ++k) lanes[k][e] += terms[k];
        }
    }

    const TensorDesc& tensor_;
    const StagedDesc& staged_;
    const Prepare<T> prepare_;
    const F terms_of_;
    const RandomKeys<R>& keys_;
    const std::int64_t begin_;
    const StagedArrays<R, T> arrays_;
};

template <class R, class T>
struct ReduceStaged : Body<kSumThreads, kSumThreads * R::sums + RandomKeys<R>::kDoubles> {
    static constexpr const char* name = "sums of staged arrays";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        if (is_skipped(arguments)) return;
        sum_chunks<T, R::sums, false>(
            block, arguments, [](const TensorDesc&, const KernelConstants<T>&) { return true; },
            [&](const TensorDesc& tensor, const KernelConstants<T>& constants, std::int64_t begin, std::int32_t high) {
                const RandomKeys<R> keys(block, block.shared + kSumThreads * R::sums, staged_of<R>(tensor), constants,
                                         begin);
                sum_tiles(block, StagedSums<R, T>(arguments, tensor, constants, begin, keys), high);
            });
    }

  private:
    // All threads of a warp take part in its exchanges, also those of tiles that do not exist.
    template <class Block>
    FO_DEVICE static void sum_tiles(Block& block, const StagedSums<R, T>& sums, std::int32_t high) {
        typename Block::template Registers<typename StagedSums<R, T>::Items> items(block);
        for (std::int32_t row = 0; row < kSumTile && row < high; row += kCodeBlock) {
            const auto first = [=](int thread) { return tile_of(thread) + row + lane_of(thread); };
            block.each([&](int thread) { sums.add(items[thread], first(thread), high); });
            exchange_largest<kLanes / kItemsPerThread, R>(block, items, [&](int k) { return sums.has_blocks_at(k); });
            block.each([&](int thread) { sums.store_state(items[thread], first(thread), high); });
        }
        block.phase(
            [&](int thread) { add_lanes<R::sums, false>(items[thread].lanes, block.shared + thread, kSumThreads); });
    }
};

}  // namespace fo::FO_TARGET
