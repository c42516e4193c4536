// The pass over the elements: load, prepare, rule, store, each thread on its own.
#pragma once

#include "../apply.h"
#include "elements.h"
#include "job.h"

namespace fo::FO_TARGET {

// Elements that a block works on before it looks for its next chunk.
inline constexpr int kChunk = 4096;

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

// The element's values through f, a rule's update or its sums.
template <class F, class T, std::size_t... S>
FO_DEVICE inline auto apply(const F& f, T& p, T g, [[maybe_unused]] T (*state)[kEach], [[maybe_unused]] int e,
                            std::index_sequence<S...>) {
    return f(p, g, state[S][e]...);
}

// The state arrays: element `begin` of each, and how they are loaded and stored.
template <class R, class T>
class State {
  public:
    static constexpr auto kAll = std::make_index_sequence<R::state.size()>{};

    FO_DEVICE State(const Job& job, std::int64_t begin, unsigned wide)
        : arrays_(pointers_of<char>(job)), offset_(begin * std::int64_t(sizeof(T))), wide_(wide / kWideState) {}

    FO_DEVICE void load(const Span& span, bool whole) {
        FO_UNROLL
        for (int k = 0; k < int(R::state.size()); ++k)
            load_own(arrays_[k] + offset_, span, whole && wide_ >> k & 1, value[k]);
    }

    template <class F>
    FO_DEVICE void store(const F& f, const Span& span, bool whole) {
        store_written(f, span, whole, kAll);
    }

    T value[R::state.size() + 1][kEach];

  private:
    template <class F, std::size_t... S>
    FO_DEVICE void store_written(const F& f, [[maybe_unused]] const Span& span, [[maybe_unused]] bool whole,
                                 [[maybe_unused]] std::index_sequence<S...> all) {
        ((writes<S, T>(f, all) ? store_own(arrays_[S] + offset_, span, whole && wide_ >> S & 1, value[S]) : void()),
         ...);
    }

    char* const* arrays_;
    std::int64_t offset_;
    unsigned wide_;
};

template <class R, class T>
FO_DEVICE inline void update_elements(const Arguments& arguments, const Job& job, const Numbers<T>& numbers,
                                      std::int64_t begin, const Span& span) {
    if (is_empty(span)) return;
    const bool whole = has_all<T>(span);
    char* const p_begin = job.p + begin * std::int64_t(item_size(job.p_format));
    const char* const g_begin = job.g + begin * std::int64_t(item_size(job.g_format));
    char* const average_begin = job.average + begin * std::int64_t(sizeof(T));
    const bool averages = numbers.prepare.averages;

    T p[kEach], g[kEach], average[kEach];
    State<R, T> state(job, begin, job.wide);
    load_as_is(job.p_format, p_begin, span, whole && job.wide & kWideP, p);
    load_as_is(job.g_format, g_begin, span, whole && job.wide & kWideG, g);
    state.load(span, whole);
    if (averages) load_own(average_begin, span, whole && job.wide & kWideAverage, average);

    decode(job.p_format, p);
    decode(job.g_format, g);
    const Prepared<R, T> f{rule_of<R>(arguments, job, numbers), prepare_of(arguments, job, numbers)};
    FO_UNROLL
    for (int e = 0; e < kEach; ++e) apply(f, p[e], g[e], state.value, e, State<R, T>::kAll);

    if (averages) {
        FO_UNROLL
        for (int e = 0; e < kEach; ++e) average[e] = f.prepare.averaged(average[e], p[e]);
        store_own(average_begin, span, whole && job.wide & kWideAverage, average);
    }
    state.store(f, span, whole);
    encode_and_store(job.p_format, p_begin, span, whole && job.wide & kWideP, p);
}

template <class R, class T>
struct Update {
    static constexpr const char* name = "update";
    static constexpr int kThreads = 256;
    static constexpr int kShared = 0;

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const Table table(arguments);
        const std::uint32_t* begins = table.update_begins();
        const std::uint32_t end = begins[table.count()];
        std::uint32_t i = 0;
        for (std::uint32_t chunk = block.index(); chunk < end; chunk += block.count()) {
            i = find(begins, i, table.count(), chunk);
            const Job& job = table.job(i);
            const Numbers<T>& numbers = table.template numbers<T>(job);
            const std::int64_t begin = std::int64_t(chunk - begins[i]) * kChunk - job.shift;
            const std::int64_t left = job.size - begin;
            const std::int32_t low = begin < 0 ? std::int32_t(-begin) : 0;
            const std::int32_t high = left < kChunk ? std::int32_t(left) : kChunk;
            // Side by side, so that a warp's access is one stretch; but what a 16-bit format has in 16 bytes is one
            // thread's.
            const bool own = job.p_format == kOwnFormat<T> && job.g_format == kOwnFormat<T>;
            block.each([&](int thread) {
                for (std::int32_t round = 0; round < high; round += kThreads * kEach)
                    update_elements<R, T>(arguments, job, numbers, begin,
                                          {round + thread * (own ? kGroup<T> : kEach),
                                           own ? kThreads * kGroup<T> : kGroup<T>, low, high});
            });
        }
    }
};

}  // namespace fo::FO_TARGET
