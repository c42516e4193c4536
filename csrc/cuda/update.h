// The update kernel: load, prepare, rule, store.  Threads do not communicate.
//
// Main types: State, a thread's elements of the state arrays; ChunkUpdate, the update of a chunk; Update, the kernel's
// body.  for_each_chunk distributes chunks to blocks and elements to threads.
#pragma once

#include "../prepare.h"
#include "../reduce.h"
#include "../rule_traits.h"
#include "broadcast.h"
#include "elements.h"
#include "tensor_table.h"

namespace fo::FO_TARGET {

// Elements of a chunk, the unit of work of a block.
inline constexpr int kChunk = 4096;

inline constexpr int kUpdateThreads = 128;

// Resident blocks per multiprocessor: as many as leave enough registers for the rule's state arrays.
template <class R, class T>
inline constexpr int kUpdateBlocks = sizeof(T) == 8                           ? 2
                                     : R::state.size() < 4 && !kBroadcasts<R> ? 4
                                                                              : 3;

// Call f(table, tensor, begin, low, high) for each chunk of an array: its elements are those from begin + low to begin
// + high.
template <class Block, class F>
FO_DEVICE inline void for_chunks(Block& block, const Arguments& arguments, F f) {
    const TensorTable table(arguments);
    const std::uint32_t* begins = table.update_begins();
    const std::uint32_t end = begins[table.count()];
    std::uint32_t i = 0;
    for (std::uint32_t chunk = block.index(); chunk < end; chunk += block.count()) {
        i = find(begins, i, table.count(), chunk);
        const TensorDesc& tensor = table.tensor(i);
        const std::int64_t begin = std::int64_t(chunk - begins[i]) * kChunk - tensor.chunk_offset;
        const std::int64_t left = tensor.size - begin;
        const std::int32_t low = begin < 0 ? std::int32_t(-begin) : 0;
        f(table, tensor, begin, low, left < kChunk ? std::int32_t(left) : kChunk);
    }
}

// For each chunk of an array, let f = of_chunk(table, tensor, begin) and call f(thread, span) until all elements are
// processed.  Threads have neighbouring groups, so that a warp's access is coalesced in every format.  T is the compute
// type.
template <class T, class Block, class OfChunk>
FO_DEVICE inline void for_each_chunk(Block& block, const Arguments& arguments, OfChunk of_chunk) {
    for_chunks(block, arguments,
               [&](const TensorTable& table, const TensorDesc& tensor, std::int64_t begin, std::int32_t low,
                   std::int32_t high) {
                   const auto f = of_chunk(table, tensor, begin);
                   block.each([&](int thread) {
                       for (std::int32_t round = 0; round < high; round += kUpdateThreads * kItemsPerThread)
                           f(thread, {round + thread * kGroup<T>, kUpdateThreads * kGroup<T>, low, high});
                   });
               });
}

// Return the rule for an array: that of the launch's constants, or the array's own if the rule has a finalize function.
template <class R, class T>
FO_DEVICE inline const R& rule_of(const Arguments& arguments, const TensorDesc& tensor,
                                  const KernelConstants<T>& constants) {
    const std::byte* own = arguments.workspace.rules;
    return *reinterpret_cast<const R*>(own ? own + std::size_t(tensor.index) * kRuleBytes : constants.rule);
}

template <class T>
FO_DEVICE inline Prepare<T> prepare_of(const Arguments& arguments, const TensorDesc& tensor,
                                       const KernelConstants<T>& constants) {
    Prepare<T> prepare = constants.prepare;
    if (arguments.workspace.clips) prepare.clip = T(arguments.workspace.clips[tensor.index]);
    return prepare;
}

template <class R>
inline constexpr auto kStateOf = std::make_index_sequence<R::state.size()>{};

// Call f, a rule's update or its reduction terms, with the values of element e.
template <class F, class T, int kItems, std::size_t... S>
FO_DEVICE inline auto apply(const F& f, T& p, T g, [[maybe_unused]] T (*state)[kItems], [[maybe_unused]] int e,
                            std::index_sequence<S...>) {
    return f(p, g, state[S][e]...);
}

template <class T, int kItems>
FO_DEVICE inline void flush_all(T (&x)[kItems]) {
    FO_UNROLL
    for (int e = 0; e < kItems; ++e) x[e] = flush_subnormal(x[e]);
}

// Update the parameter and the state of element e of a thread; return whether the step agrees with the gradient.
template <class R, class T, int kItems>
FO_DEVICE inline bool move(const Prepared<R, T>& f, const Finish<T>& finish, T& p, T g, T (*state)[kItems], int e) {
    const T prepared = f.prepare.gradient(g, p);
    const T before = f.prepare.parameter(p);
    T moved = finish.masks && kIgnoresP<R, T> ? T(0) : before;
    apply(ApplyRule<R>{f.rule}, moved, prepared, state, e, kStateOf<R>);
    if (!finish.masks) {
        p = finish.bounded(moved);
        return false;
    }
    p = finish.bounded(finish.template masked<kIgnoresP<R, T>>(before, moved, prepared));
    return Finish<T>::direction(Finish<T>::template change<kIgnoresP<R, T>>(before, moved), prepared) < T(0);
}

template <class R, class T>
FO_DEVICE inline Prepared<R, T> prepared_of(const Arguments& arguments, const TensorDesc& tensor,
                                            const KernelConstants<T>& constants) {
    return {rule_of<R>(arguments, tensor, constants), prepare_of(arguments, tensor, constants)};
}

template <class T>
FO_DEVICE inline Finish<T> finish_of(const Arguments& arguments, const TensorDesc& tensor,
                                     const KernelConstants<T>& constants) {
    const Workspace& at = arguments.workspace;
    Finish<T> finish = constants.finish;
    if (at.agreeing && !at.counts)
        finish.scale = T(cautious_scale(double(at.agreeing[tensor.index]), double(tensor.size)));
    return finish;
}

// A thread's elements of all state arrays, counted from element `begin` of each.
template <class R, class T>
class State {
  public:
    FO_DEVICE State(const TensorDesc& tensor, std::int64_t begin, unsigned aligned16)
        : arrays_(pointers_of<char>(tensor)), begin_(begin), aligned16_mask_(aligned16 / kAlignedState) {
        if constexpr (kBroadcasts<R>) axes_ = axes_of<R>(tensor);
    }

    template <bool kEdges>
    FO_DEVICE void load(const ThreadItems& span) {
        FO_UNROLL
        for (int k = 0; k < int(R::state.size()); ++k) {
            if (is_broadcast(k))
                load_broadcast<kEdges>(arrays_[k], axes_[k], begin_, span, value[k]);
            else
                load_own<kEdges>(at(k), span, aligned16_mask_ >> k & 1, value[k]);
        }
    }

    template <bool kEdges, class F>
    FO_DEVICE void store(const F& f, const ThreadItems& span) {
        store_written<kEdges>(f, span, kStateOf<R>);
    }

    // Store all arrays without subnormal numbers.
    FO_DEVICE void store_flushed(const ThreadItems& span) {
        FO_UNROLL
        for (int k = 0; k < int(R::state.size()); ++k) {
            if (is_broadcast(k)) continue;
            flush_all(value[k]);
            store_own<false>(at(k), span, aligned16_mask_ >> k & 1, value[k]);
        }
    }

    // Load one element of each array into value[k][0].
    FO_DEVICE void load_one_of(std::int32_t i) {
        FO_UNROLL
        for (int k = 0; k < int(R::state.size()); ++k) {
            const bool is_dense = !is_broadcast(k);
            const char* const from = is_dense ? at(k) : arrays_[k] + broadcast_element(axes_[k], begin_ + i).offset;
            value[k][0] = load_one<T>(kComputeFormat<T>, from, is_dense ? i : 0);
        }
    }

    template <class F>
    FO_DEVICE void store_one_of(const F& f, std::int32_t i) {
        store_one_written(f, i, kStateOf<R>);
    }

    FO_DEVICE void store_one_flushed(std::int32_t i) {
        FO_UNROLL
        for (int k = 0; k < int(R::state.size()); ++k)
            if (!is_broadcast(k)) store_one<T>(kComputeFormat<T>, at(k), i, flush_subnormal(value[k][0]));
    }

    T value[R::state.size() + 1][kItemsPerThread];

  private:
    FO_DEVICE char* at(std::size_t k) const { return arrays_[k] + begin_ * std::int64_t(sizeof(T)); }

    FO_DEVICE bool is_broadcast(int k) const {
        if constexpr (kBroadcasts<R>) return axes_[k].count > 0;
        return false;
    }

    template <bool kEdges, class F, std::size_t... S>
    FO_DEVICE void store_written(const F& f, [[maybe_unused]] const ThreadItems& span,
                                 [[maybe_unused]] std::index_sequence<S...> all) {
        ((writes<S, T>(f, all) ? store_own<kEdges>(at(S), span, aligned16_mask_ >> S & 1, value[S]) : void()), ...);
    }

    template <class F, std::size_t... S>
    FO_DEVICE void store_one_written(const F& f, [[maybe_unused]] std::int32_t i,
                                     [[maybe_unused]] std::index_sequence<S...> all) {
        ((writes<S, T>(f, all) ? store_one<T>(kComputeFormat<T>, at(S), i, value[S][0]) : void()), ...);
    }

    char* const* arrays_;
    const Axes* axes_ = nullptr;
    std::int64_t begin_;
    unsigned aligned16_mask_;
};

// The update of a thread's elements of one chunk.
template <class R, class T>
class ChunkUpdate {
  public:
    FO_DEVICE ChunkUpdate(const Arguments& arguments, const TensorDesc& tensor, const KernelConstants<T>& constants,
                          std::int64_t begin)
        : arguments_(arguments),
          tensor_(tensor),
          constants_(constants),
          begin_(begin),
          p_(tensor.p + begin * std::int64_t(item_size(tensor.p_format))),
          g_(tensor.g + begin * std::int64_t(item_size(tensor.g_format))),
          average_(tensor.average + begin * std::int64_t(sizeof(T))),
          copy_(tensor.copy + begin * 2) {}

    // Return how many elements of the span agree with the gradient if the launch counts these, and updates nothing.
    FO_DEVICE std::uint32_t operator()(int, const ThreadItems& span) const {
        if (is_empty(span)) return 0;
        // In groups, what follows the rule would need more registers than there are.
        const bool by_element = counts() || constants_.finish.is_active;
        if (!by_element) {
            update_groups(span);
            if (has_all<T>(span)) return 0;
        }
        std::uint32_t agreeing = 0;
        for (int e = 0; e < kItemsPerThread; ++e)
            if (has<T>(span, e) && (by_element || !has_group<T>(span, e / kGroup<T> * kGroup<T>)))
                agreeing += update_one(place<T>(span, e));
        return agreeing;
    }

  private:
    // Update the groups that exist entirely.  All loads are issued before the first value is used; those of the average
    // come first, because their condition is loaded, too, and must not wait for the others.
    FO_DEVICE void update_groups(const ThreadItems& span) const {
        const bool averages = constants_.prepare.averages;
        T p[kItemsPerThread], g[kItemsPerThread], average[kItemsPerThread];
        State<R, T> state(tensor_, begin_, tensor_.aligned16_mask);
        if (averages) load_own<false>(average_, span, tensor_.aligned16_mask & kAlignedAverage, average);
        load_as_is<false>(tensor_.p_format, p_, span, tensor_.aligned16_mask & kAlignedP, p);
        load_as_is<false>(tensor_.g_format, g_, span, tensor_.aligned16_mask & kAlignedG, g);
        state.template load<false>(span);

        decode(tensor_.p_format, p);
        decode(tensor_.g_format, g);
        const auto f = prepared();
        FO_UNROLL
        for (int e = 0; e < kItemsPerThread; ++e) apply(f, p[e], g[e], state.value, e, kStateOf<R>);
        if (tensor_.copy) store_copy<false>(tensor_.copy_format, copy_, span, p);

        if (averages) {
            FO_UNROLL
            for (int e = 0; e < kItemsPerThread; ++e) average[e] = f.prepare.averaged(average[e], p[e]);
            if (f.prepare.flushes) flush_all(average);
            store_own<false>(average_, span, tensor_.aligned16_mask & kAlignedAverage, average);
        }
        if (f.prepare.flushes)
            state.store_flushed(span);
        else
            state.template store<false>(f, span);
        encode_and_store<false>(tensor_.p_format, p_, span, tensor_.aligned16_mask & kAlignedP, p);
    }

    // Update one element, at the edge of an array or with a `finish`; if the launch counts, return whether its step
    // agrees with the gradient instead.
    FO_DEVICE bool update_one(std::int32_t i) const {
        T p = load_one<T>(tensor_.p_format, p_, i);
        const T g = load_one<T>(tensor_.g_format, g_, i);
        State<R, T> state(tensor_, begin_, 0);
        state.load_one_of(i);
        const auto f = prepared();
        const bool agrees = move(f, finish_of(arguments_, tensor_, constants_), p, g, state.value, 0);
        if (counts()) return agrees;
        if (tensor_.copy) store(copy_ + i * 2, encode_half(tensor_.copy_format, p));
        if (f.prepare.averages) {
            const T average = f.prepare.averaged(load_one<T>(kComputeFormat<T>, average_, i), p);
            store_one<T>(kComputeFormat<T>, average_, i, f.prepare.flushes ? flush_subnormal(average) : average);
        }
        if (f.prepare.flushes)
            state.store_one_flushed(i);
        else
            state.store_one_of(f, i);
        store_one<T>(tensor_.p_format, p_, i, p);
        return false;
    }

    FO_DEVICE bool counts() const { return arguments_.workspace.counts; }

    FO_DEVICE Prepared<R, T> prepared() const { return prepared_of<R>(arguments_, tensor_, constants_); }

    const Arguments& arguments_;
    const TensorDesc& tensor_;
    const KernelConstants<T>& constants_;
    const std::int64_t begin_;
    char* const p_;
    const char* const g_;
    char* const average_;
    char* const copy_;
};

template <class R, class T>
struct Update {
    using Takes = Arguments;
    static constexpr const char* name = "update";
    static constexpr int kThreads = kUpdateThreads;
    static constexpr int kBlocks = kUpdateBlocks<R, T>;
    static constexpr int kShared = 0;

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        if (is_skipped(arguments)) return;
        for_each_chunk<T>(block, arguments,
                          [&](const TensorTable& table, const TensorDesc& tensor, std::int64_t begin) {
                              const KernelConstants<T>& constants = table.template constants<T>(tensor);
                              return [&, update = ChunkUpdate<R, T>(arguments, tensor, constants, begin)](
                                         int thread, const ThreadItems& span) {
                                  const std::uint32_t agreeing = update(thread, span);
                                  if (agreeing > 0) block.add(arguments.workspace.agreeing[tensor.index], agreeing);
                              };
                          });
    }
};

}  // namespace fo::FO_TARGET
