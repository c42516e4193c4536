// The pass over the elements: load, prepare, rule, store, each thread on its own.
#pragma once

#include "../apply.h"
#include "elements.h"
#include "job.h"

namespace fo::FO_TARGET {

// Elements that a block works on before it looks for its next chunk.
inline constexpr int kChunk = 4096;

inline constexpr int kUpdateThreads = 128;

// Blocks that have to fit on a processor: as many as leave registers enough for so many state arrays.
template <class T>
constexpr int update_blocks(std::size_t state) {
    return sizeof(T) == 8 ? 2 : state < 4 ? 4 : 3;
}

// For each chunk of an array f = of_chunk(table, job, begin), then for each thread f(thread, span) until all elements
// were someone's.  Side by side, so that a warp's access is one stretch; but what a 16-bit format has in 16 bytes is
// one thread's.  `T`: the compute type, or a word of its size.
template <class T, class Block, class OfChunk>
FO_DEVICE inline void each_span(Block& block, const Arguments& arguments, OfChunk of_chunk) {
    const Table table(arguments);
    const std::uint32_t* begins = table.update_begins();
    const std::uint32_t end = begins[table.count()];
    std::uint32_t i = 0;
    for (std::uint32_t chunk = block.index(); chunk < end; chunk += block.count()) {
        i = find(begins, i, table.count(), chunk);
        const Job& job = table.job(i);
        const std::int64_t begin = std::int64_t(chunk - begins[i]) * kChunk - job.shift;
        const std::int64_t left = job.size - begin;
        const std::int32_t low = begin < 0 ? std::int32_t(-begin) : 0;
        const std::int32_t high = left < kChunk ? std::int32_t(left) : kChunk;
        const auto f = of_chunk(table, job, begin);
        const bool own = job.p_format == kOwnFormat<T> && job.g_format == kOwnFormat<T>;
        block.each([&](int thread) {
            for (std::int32_t round = 0; round < high; round += kUpdateThreads * kEach)
                f(thread, {round + thread * (own ? kGroup<T> : kEach), own ? kUpdateThreads * kGroup<T> : kGroup<T>,
                           low, high});
        });
    }
}

// The rule for an array: its update's, or its own where rules adapt.
template <class R, class T>
FO_DEVICE inline const R& rule_of(const Arguments& arguments, const Job& job, const Numbers<T>& numbers) {
    const std::byte* own = arguments.workspace.rules;
    return *reinterpret_cast<const R*>(own ? own + std::size_t(job.index) * kRuleBytes : numbers.rule);
}

template <class T>
FO_DEVICE inline Prepare<T> prepare_of(const Arguments& arguments, const Job& job, const Numbers<T>& numbers) {
    Prepare<T> prepare = numbers.prepare;
    if (arguments.workspace.clips) prepare.clip = T(arguments.workspace.clips[job.index]);
    return prepare;
}

template <class R>
inline constexpr auto kStateOf = std::make_index_sequence<R::state.size()>{};

// The element's values through f, a rule's update or its sums.
template <class F, class T, std::size_t... S>
FO_DEVICE inline auto apply(const F& f, T& p, T g, [[maybe_unused]] T (*state)[kEach], [[maybe_unused]] int e,
                            std::index_sequence<S...>) {
    return f(p, g, state[S][e]...);
}

// The state arrays from element `begin` of each, and how they are loaded and stored.
template <class R, class T>
class State {
  public:
    FO_DEVICE State(const Job& job, std::int64_t begin, unsigned wide)
        : arrays_(pointers_of<char>(job)), offset_(begin * std::int64_t(sizeof(T))), wide_(wide / kWideState) {}

    template <bool kEdges>
    FO_DEVICE void load(const Span& span, bool whole) {
        FO_UNROLL
        for (int k = 0; k < int(R::state.size()); ++k) load_own<kEdges>(at(k), span, whole && wide_ >> k & 1, value[k]);
    }

    template <bool kEdges, class F>
    FO_DEVICE void store(const F& f, const Span& span, bool whole) {
        store_written<kEdges>(f, span, whole, kStateOf<R>);
    }

    // One element, in the first place of each.
    FO_DEVICE void load_one_of(std::int32_t i) {
        FO_UNROLL
        for (int k = 0; k < int(R::state.size()); ++k) value[k][0] = load_one<T>(kOwnFormat<T>, at(k), i);
    }

    template <class F>
    FO_DEVICE void store_one_of(const F& f, std::int32_t i) {
        store_one_written(f, i, kStateOf<R>);
    }

    T value[R::state.size() + 1][kEach];

  private:
    FO_DEVICE char* at(std::size_t k) const { return arrays_[k] + offset_; }

    template <bool kEdges, class F, std::size_t... S>
    FO_DEVICE void store_written(const F& f, [[maybe_unused]] const Span& span, [[maybe_unused]] bool whole,
                                 [[maybe_unused]] std::index_sequence<S...> all) {
        ((writes<S, T>(f, all) ? store_own<kEdges>(at(S), span, whole && wide_ >> S & 1, value[S]) : void()), ...);
    }

    template <class F, std::size_t... S>
    FO_DEVICE void store_one_written(const F& f, [[maybe_unused]] std::int32_t i,
                                     [[maybe_unused]] std::index_sequence<S...> all) {
        ((writes<S, T>(f, all) ? store_one<T>(kOwnFormat<T>, at(S), i, value[S][0]) : void()), ...);
    }

    char* const* arrays_;
    std::int64_t offset_;
    unsigned wide_;
};

// A chunk of an array as a thread sees it.
template <class R, class T>
class Stretch {
  public:
    FO_DEVICE Stretch(const Arguments& arguments, const Job& job, const Numbers<T>& numbers, std::int64_t begin)
        : arguments_(arguments),
          job_(job),
          numbers_(numbers),
          begin_(begin),
          p_(job.p + begin * std::int64_t(item_size(job.p_format))),
          g_(job.g + begin * std::int64_t(item_size(job.g_format))),
          average_(job.average + begin * std::int64_t(sizeof(T))) {}

    FO_DEVICE void operator()(int, const Span& span) const {
        if (is_empty(span)) return;
        if (has_all<T>(span)) return update_all(span);
        for (int e = 0; e < kEach; ++e)
            if (has<T>(span, e)) update_one(place<T>(span, e));
    }

  private:
    // Everything is loaded before anything is waited for.
    FO_DEVICE void update_all(const Span& span) const {
        const bool averages = numbers_.prepare.averages;
        T p[kEach], g[kEach], average[kEach];
        State<R, T> state(job_, begin_, job_.wide);
        load_as_is<false>(job_.p_format, p_, span, job_.wide & kWideP, p);
        load_as_is<false>(job_.g_format, g_, span, job_.wide & kWideG, g);
        state.template load<false>(span, true);
        if (averages) load_own<false>(average_, span, job_.wide & kWideAverage, average);

        decode(job_.p_format, p);
        decode(job_.g_format, g);
        const auto f = prepared();
        FO_UNROLL
        for (int e = 0; e < kEach; ++e) apply(f, p[e], g[e], state.value, e, kStateOf<R>);

        if (averages) {
            FO_UNROLL
            for (int e = 0; e < kEach; ++e) average[e] = f.prepare.averaged(average[e], p[e]);
            store_own<false>(average_, span, job_.wide & kWideAverage, average);
        }
        state.template store<false>(f, span, true);
        encode_and_store<false>(job_.p_format, p_, span, job_.wide & kWideP, p);
    }

    // At an array's edges.
    FO_DEVICE void update_one(std::int32_t i) const {
        T p = load_one<T>(job_.p_format, p_, i);
        const T g = load_one<T>(job_.g_format, g_, i);
        State<R, T> state(job_, begin_, 0);
        state.load_one_of(i);
        const auto f = prepared();
        apply(f, p, g, state.value, 0, kStateOf<R>);
        if (numbers_.prepare.averages)
            store_one<T>(kOwnFormat<T>, average_, i, f.prepare.averaged(load_one<T>(kOwnFormat<T>, average_, i), p));
        state.store_one_of(f, i);
        store_one<T>(job_.p_format, p_, i, p);
    }

    FO_DEVICE Prepared<R, T> prepared() const {
        return {rule_of<R>(arguments_, job_, numbers_), prepare_of(arguments_, job_, numbers_)};
    }

    const Arguments& arguments_;
    const Job& job_;
    const Numbers<T>& numbers_;
    const std::int64_t begin_;
    char* const p_;
    const char* const g_;
    char* const average_;
};

template <class R, class T>
struct Update {
    static constexpr const char* name = "update";
    static constexpr int kThreads = kUpdateThreads;
    static constexpr int kBlocks = update_blocks<T>(R::state.size());
    static constexpr int kShared = 0;

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        each_span<T>(block, arguments, [&](const Table& table, const Job& job, std::int64_t begin) {
            return Stretch<R, T>(arguments, job, table.template numbers<T>(job), begin);
        });
    }
};

}  // namespace fo::FO_TARGET
