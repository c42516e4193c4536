// The loops of a step on the CPU: decode, prepare, rule, encode, over tiles that stay in the first-level cache.  Each
// stage is a short loop that the compiler vectorizes; those that know no rule are in stages.h.  An array in its compute
// type is updated in place.  Where convert.h has blocks, parameters and gradients of 16 bits are converted in
// registers.
//
// Main types: ArrayTile, one array in the compute type; Tiles, all arrays of a segment.  Compiled once per instruction
// set and group of rules; FO_TARGET names the copy.  Threads and the order of passes are in device.cpp.
#pragma once

#include "../formats.h"
#include "../prepare.h"
#include "../rule_traits.h"
#include "convert.h"
#include "loop.h"
#include "stages.h"
#include "tile_sums.h"
#include "vectorize.h"

#include <algorithm>
#include <type_traits>

namespace fo::FO_TARGET {

inline constexpr Index kTile = 1024;  // with p, g and two state arrays in float64: 32 KiB
static_assert(kTile == kSumTile);

// An array in the compute type, one tile after another: its own memory if it has that format, else a decoded copy.
template <class T>
class ArrayTile {
  public:
    ArrayTile() {}  // leaves the copy uninitialized
    explicit ArrayTile(const ArrayRef& array) { bind(array); }
    ArrayTile(const ArrayTile&) = delete;
    ArrayTile& operator=(const ArrayTile&) = delete;

    void bind(const ArrayRef& array) {
        array_ = array;
        in_place_ = array.format == kComputeFormat<T> && !array.axes;
    }

    bool in_place() const { return in_place_; }

    // Whether it is only read: its elements repeat.
    bool is_broadcast() const { return array_.axes; }

    // Return elements from `begin` on.
    Cell<T>* open(Index begin, Index n) {
        if (in_place_) return static_cast<Cell<T>*>(array_.data) + begin;
        if (is_broadcast()) {
            if (Cell<T>* const run = run_at(begin, n)) return run;
            cpu::FO_ISA::decode_along<T>(array_, begin, copy_, n);
            return copy_;
        }
        memory_ = element(array_.data, array_.format, begin);
        cpu::FO_ISA::decode<T>(array_.format, memory_, copy_, n);
        return copy_;
    }

    // Store the tile that was opened last.
    void close(Index n) const {
        if (!in_place_ && !is_broadcast()) cpu::FO_ISA::encode<T>(array_.format, copy_, memory_, n);
    }

    // Memory for a tile of an array that is in place, so that its copy may change.
    Cell<T>* copy() { return copy_; }

  private:
    // Return the elements of a broadcast array that follow one another in memory, such as those of a row; null where
    // they do not.
    Cell<T>* run_at(Index begin, Index n) const {
        const Axes& axes = *array_.axes;
        int k = axes.count - 1;
        const bool is_dense = axes.stride[k] == sizeof(T) && array_.format == kComputeFormat<T>;
        if (!is_dense || begin % axes.length[k] + n > axes.length[k]) return nullptr;
        auto* at = static_cast<std::byte*>(array_.data);
        for (; k >= 0; begin /= axes.length[k--]) at += begin % axes.length[k] * axes.stride[k];
        return reinterpret_cast<Cell<T>*>(at);
    }

    alignas(64) Cell<T> copy_[kTile];
    ArrayRef array_{};
    void* memory_ = nullptr;
    bool in_place_ = true;
};

// The parameter, gradient and state of a segment.
template <class R, class T>
class Tiles {
    static constexpr std::size_t kState = R::state.size(), kElements = kState - kHasRowState<R>;

  public:
    Tiles(const Segment& segment, const Gradient& gradient)
        : gradient_(gradient),
          rows_(segment.rows),
          g_({const_cast<void*>(gradient.data), segment.p.size, gradient.format}) {
        bind(segment);
    }

    // Refer to the parameter and state of a segment.
    void bind(const Segment& segment) {
        p_.bind(segment.p);
        for (std::size_t k = 0; k < kElements; ++k) state_[k].bind(segment.state[k]);
    }

    bool has_plain_gradient() const { return p_.in_place() && g_.in_place() && !gradient_.axes; }

    bool has_plain_state() const {
        return std::all_of(state_, state_ + kElements, [](const ArrayTile<T>& each) { return each.in_place(); });
    }

    void open(Index begin, Index n) {
        p = p_.open(begin, n);
        if (gradient_.axes) {
            cpu::FO_ISA::decode_gradient<T>(gradient_, begin, g_.copy(), n);
            g = g_.copy();
        } else {
            g = g_.open(begin, n);
        }
        for (std::size_t k = 0; k < kElements; ++k) state[k] = state_[k].open(begin, n);
        if constexpr (kHasRowState<R>) state[kElements] = open_factors(begin, n);
    }

    // From here on `g` is what the rule receives.
    void prepare_gradient(const StepConstants& constants, const Gradient& gradient, Index n) {
        cpu::FO_ISA::prepare_gradient<T>(constants, gradient, p, g, g_.copy(), n);
        g = g_.copy();
    }

    // From here on the rule writes to copies of the state.
    void detach_state(Index n) {
        for (std::size_t k = 0; k < kElements; ++k) {
            Cell<T>* const copy = state_[k].copy();
            if (state[k] != copy) copy_and_fetch(copy, state[k], static_cast<std::size_t>(n) * sizeof(T));
            state[k] = copy;
        }
    }

    void close_parameter(Index n) const { p_.close(n); }

    // Store the state arrays that f writes.
    template <class F>
    void close_state(const F& f, Index n) const {
        close_written(f, n, std::make_index_sequence<kState>{});
    }

    // Store all state arrays without subnormal numbers.
    void flush_state(Index n) {
        for (std::size_t k = 0; k < kElements; ++k) {
            if (state_[k].is_broadcast()) continue;
            cpu::FO_ISA::flush_subnormals<T>(state[k], n);
            state_[k].close(n);
        }
    }

    Cell<T>* p = nullptr;
    const Cell<T>* g = nullptr;
    Cell<T>* state[kState + 1] = {};  // + 1: no array of length 0

  private:
    // Repeat the factor of each row for its elements; leave them uninitialized where there are no factors yet.
    Cell<T>* open_factors(Index begin, Index n) {
        Cell<T>* const tile = state_[kElements].copy();
        const T* const factors = static_cast<const T*>(gradient_.row_factors);
        if (!factors) return tile;
        begin += gradient_.row_offset;
        Index row = begin / rows_.stride % rows_.count, size = rows_.stride - begin % rows_.stride;
        if (rows_.stride == 1 && row + n <= rows_.count) {
            std::memcpy(tile, factors + row, static_cast<std::size_t>(n) * sizeof(T));
            return tile;
        }
        for (Index at = 0; at < n; at += size, size = rows_.stride, row = row + 1 < rows_.count ? row + 1 : 0)
            std::fill_n(tile + at, std::min(size, n - at), Cell<T>{factors[row]});
        return tile;
    }

    template <class F, std::size_t... S>
    void close_written([[maybe_unused]] const F& f, [[maybe_unused]] Index n,
                       [[maybe_unused]] std::index_sequence<S...> all) const {
        ((writes<S, T>(f, all) ? state_[S].close(n) : void()), ...);
    }

    const Gradient& gradient_;
    const RowShape& rows_;
    ArrayTile<T> p_, g_;
    ArrayTile<T> state_[kState + 1];
};

// Load one element into local variables, apply f and store what f writes.
template <bool kWritesP, class T, class F, std::size_t... S>
FO_INLINE void apply_one(const F& f, Cell<T>* p, const Cell<T>* g, [[maybe_unused]] Cell<T>* const* state, Index i,
                         [[maybe_unused]] std::index_sequence<S...> all) {
    T x = p[i].value;
    T s[sizeof...(S) + 1] = {state[S][i].value...};
    f(x, g[i].value, s[S]...);
    if constexpr (kWritesP) p[i].value = x;
    ((writes<S, T>(f, all) ? void(state[S][i].value = s[S]) : void()), ...);
}

// Only the bandwidth probe has functions that do not write p.
template <class F, bool kWritesP = true, class T, std::size_t kPointers>
void apply(const F f, Cell<T>* p, const Cell<T>* g, Cell<T>* const (&arrays)[kPointers], Index n) {
    std::array<Cell<T>*, kPointers> copies;  // in local variables: a store to an array cannot change them
    std::copy(arrays, arrays + kPointers, copies.begin());
    Cell<T>* const* state = copies.data();
    FO_IVDEP
    for (Index i = 0; i < n; ++i) apply_one<kWritesP, T>(f, p, g, state, i, std::make_index_sequence<kPointers - 1>{});
}

template <std::size_t kSums, class T, class F, std::size_t... S>
void reduce_tile(const F terms_of, const Cell<T>* p, const Cell<T>* g, [[maybe_unused]] Cell<T>* const* state, Index n,
                 double* sums, [[maybe_unused]] std::index_sequence<S...> all) {
    sum_tile<kSums>(
        [=](Index i) {
            T s[sizeof...(S) + 1] = {state[S][i].value...};
            const auto terms = terms_of(p[i].value, g[i].value, s[S]...);
            ((writes<S, T>(terms_of, all) ? void(state[S][i].value = s[S]) : void()), ...);
            return terms;
        },
        n, sums);
}

// Write the sums of rows of one element each.
template <class T, class F, std::size_t... S>
void take_terms(const F terms_of, const Cell<T>* p, const Cell<T>* g, [[maybe_unused]] Cell<T>* const* state, Index n,
                double* sums, std::index_sequence<S...>) {
    FO_IVDEP
    for (Index i = 0; i < n; ++i) {
        T s[sizeof...(S) + 1] = {state[S][i].value...};
        sums[i] = combine(false, 0.0, terms_of(p[i].value, g[i].value, s[S]...)[0]);
    }
}

// Return the rule that the bindings constructed, as the type of this instruction set: both types are compiled from the
// same source, so their layout is equal.
template <class R>
R restore(const StepConstants& constants, bool is_double) {
    static_assert(sizeof(R) <= kRuleBytes && std::is_trivially_copyable_v<R>);
    alignas(R) std::byte copy[sizeof(R)];
    std::memcpy(copy, is_double ? constants.rule_f64 : constants.rule_f32, sizeof(R));
    return *reinterpret_cast<const R*>(copy);
}

// A rule after decoupled decay alone, as in AdamW.  All of the preparation would double the arithmetic.
template <class R, class T>
struct Shrunk {
    static constexpr auto& state = R::state;

    R rule;
    T decay;

    template <class... S>
        requires std::is_invocable_v<UpdateType<R>, T&, T, S&...>
    void operator()(T& p, T g, S&... s) const {
        p = shrink(p, decay);
        apply_rule(rule, p, g, s...);
    }
};

// Return the number of elements before the next cache line of an array, or a whole tile where the array is too short
// for that to pay.  NumPy's arrays begin 16 bytes after a line, and a vector of 64 bytes that straddles two lines is
// loaded twice.  State that the optimizer allocated has its parameter's offset within a line.
template <class T>
Index until_line(const T* array, Index begin, Index end) {
    const auto after = reinterpret_cast<std::uintptr_t>(array + begin) % kCacheLine;
    if (end - begin < 2 * kTile || after == 0 || after % sizeof(T) != 0) return kTile;
    return Index((kCacheLine - after) / sizeof(T));
}

// Apply f to whole blocks of a parameter and gradient that are not both in the compute type, or of a parameter that has
// a copy, with their conversions in the same loop; return how many elements these blocks have.  State is in the compute
// type.  The formats are functions, so that they may be constants.
template <class T, class F, class PFormat, class GFormat>
Index apply_in_blocks(const F& f, const Segment& segment, const Gradient& gradient, Index begin, Index end,
                      PFormat p_format, GFormat g_format) {
    constexpr std::size_t kState = F::state.size();
    const std::size_t p_bytes = kBlock * item_size(p_format()), g_bytes = kBlock * item_size(g_format());
    auto* p = static_cast<std::byte*>(element(segment.p.data, p_format(), begin));
    auto* g = static_cast<const std::byte*>(element(gradient.data, g_format(), begin));
    std::array<Cell<T>*, kState + 1> state;
    for (std::size_t k = 0; k < kState; ++k) state[k] = static_cast<Cell<T>*>(segment.state[k].data) + begin;
    Index done = 0;
    for (; done + kBlock <= end - begin; done += kBlock, p += p_bytes, g += g_bytes) {
        alignas(64) Cell<T> p_block[kBlock], g_block[kBlock];
        load_block(p_format(), p, p_block);
        load_block(g_format(), g, g_block);
        std::array<Cell<T>*, kState + 1> here;
        for (std::size_t k = 0; k < kState; ++k) here[k] = state[k] + done;
        FO_IVDEP
        for (Index i = 0; i < kBlock; ++i)
            apply_one<true, T>(f, p_block, g_block, here.data(), i, std::make_index_sequence<kState>{});
        store_block(p_format(), p_block, p);
    }
    return done;
}

// The same with a loop of its own where both are in one format of 16 bits.  A branch on the format in each block takes
// as long as the rule.
template <class T, class F>
Index apply_in_blocks([[maybe_unused]] const F f, [[maybe_unused]] const Segment& segment,
                      [[maybe_unused]] const Gradient& gradient, [[maybe_unused]] Index begin,
                      [[maybe_unused]] Index end) {
    if constexpr (kConvertsBlocks<T>) {
        const Format p_format = segment.p.format, g_format = gradient.format;
        const auto apply_with = [&](auto p, auto g) {
            return apply_in_blocks<T>(f, segment, gradient, begin, end, p, g);
        };
        if (p_format == g_format && p_format == Format::kBfloat16) {
            const std::integral_constant<Format, Format::kBfloat16> format;
            return apply_with(format, format);
        }
        if (p_format == g_format && p_format == Format::kFloat16) {
            const std::integral_constant<Format, Format::kFloat16> format;
            return apply_with(format, format);
        }
        return apply_with([=] { return p_format; }, [=] { return g_format; });
    }
    return 0;
}

template <class R, class T>
Index update_in_blocks(const R& rule, const Prepare<T>& prepare, const Segment& segment, const Gradient& gradient,
                       Index begin, Index end) {
    if (prepare.changes_gradient)
        return apply_in_blocks<T>(Prepared<R, T>{rule, prepare}, segment, gradient, begin, end);
    if (prepare.shrinks) return apply_in_blocks<T>(Shrunk<R, T>{rule, prepare.decay}, segment, gradient, begin, end);
    return apply_in_blocks<T>(ApplyRule<R>{rule}, segment, gradient, begin, end);
}

// Update elements; or, if `agreeing` is not null, write nothing and add to it the number of those whose step agrees
// with the gradient.
template <class R, class T>
FO_NOINLINE void update_or_count(const Segment& segment, const Gradient& gradient, const StepConstants& constants,
                                 Index begin, Index end, cpu::Staging* staging, double* agreeing) {
    const R rule = restore<R>(constants, sizeof(T) == 8);
    const Prepare<T> prepare(constants, gradient);
    Tiles<R, T> tiles(segment, gradient);
    ArrayTile<T> average(segment.average);
    cpu::FO_ISA::MaskedTile<T> masked;
    Cell<T>* const moved = static_cast<Cell<T>*>(static_cast<void*>(masked.moved));
    const bool masks = constants.masks(), changes_p = masks || constants.bounds_parameter();
    const bool plain = tiles.has_plain_gradient(), in_one_loop = plain || staging, copies = segment.copy.data;
    const bool only_updates = !prepare.averages && !prepare.flushes && !changes_p && !copies;
    // A staged tile is in one loop with its conversions if both arrays have one format of 16 bits.
    const bool in_blocks = !kHasRowState<R> && !plain && only_updates && !gradient.axes && tiles.has_plain_state() &&
                           converts_blocks<T>(gradient.format) && (!staging || segment.p.format == gradient.format);
    Index most = plain && !staging ? until_line(static_cast<const T*>(segment.p.data), begin, end) : kTile;
    for (Index n = 0; begin < end; begin += n, most = kTile) {
        n = std::min(end - begin, most);
        if (staging) staging->open(begin, n);
        if constexpr (!kHasRowState<R>)
            if (in_blocks && (!staging || n % kBlock == 0)) {
                const Index last = staging ? begin + n : end;
                if (const Index done = update_in_blocks<R, T>(rule, prepare, segment, gradient, begin, last);
                    done > 0) {
                    n = done;
                    if (staging) staging->close(begin, n);
                    continue;
                }
            }
        if (staging) tiles.bind(segment);
        tiles.open(begin, n);
        // One loop reads one long stream an array; separate stages would alternate between two short ones.
        if (in_one_loop && prepare.changes_gradient && !masks) {
            apply<Prepared<R, T>>({rule, prepare}, tiles.p, tiles.g, tiles.state, n);
        } else if (in_one_loop && prepare.shrinks && !masks) {
            apply<Shrunk<R, T>>({rule, prepare.decay}, tiles.p, tiles.g, tiles.state, n);
        } else {
            if (prepare.changes_gradient) tiles.prepare_gradient(constants, gradient, n);
            if (masks)
                cpu::FO_ISA::begin_masked<T>(constants, tiles.p, masked, kIgnoresP<R, T>, n);
            else if (prepare.shrinks)
                cpu::FO_ISA::decay_parameter<T>(constants, tiles.p, n);
            if (agreeing) tiles.detach_state(n);
            apply<ApplyRule<R>>({rule}, masks ? moved : tiles.p, tiles.g, tiles.state, n);
        }
        if (agreeing) {
            *agreeing += cpu::FO_ISA::count_agreeing<T>(masked, tiles.g, n);
            continue;
        }
        if (changes_p || copies)
            cpu::FO_ISA::finish_parameter<T>(segment, gradient, constants, masked, begin, tiles.g, tiles.p, n);
        if (prepare.averages) {
            Cell<T>* const averages = average.open(begin, n);
            cpu::FO_ISA::average_parameter<T>(constants, tiles.p, averages, n);
            if (prepare.flushes) cpu::FO_ISA::flush_subnormals<T>(averages, n);
            average.close(n);
        }
        if (prepare.flushes)
            tiles.flush_state(n);
        else
            tiles.close_state(ApplyRule<R>{rule}, n);
        tiles.close_parameter(n);
        if (staging) staging->close(begin, n);
    }
}

template <class R, class T>
void update(const Segment& segment, const Gradient& gradient, const StepConstants& constants, Index begin, Index end,
            cpu::Staging* staging) {
    update_or_count<R, T>(segment, gradient, constants, begin, end, staging, nullptr);
}

// Counts are exact in any order, so that all are added to the sums of the first tile.
template <class R, class T>
void count_agreeing(const Segment& segment, const Gradient& gradient, const StepConstants& constants, Index first,
                    Index last, double* sums) {
    update_or_count<R, T>(segment, gradient, constants, first * kSumTile, std::min(last * kSumTile, segment.p.size),
                          nullptr, sums);
}

template <class R, class T>
void reduce(const Segment& segment, const Gradient& gradient, const StepConstants& constants, Index first, Index last,
            double* sums) {
    const ReduceTerms<R> terms_of{restore<R>(constants, sizeof(T) == 8)};
    const Prepare<T> prepare(constants, gradient);
    Tiles<R, T> tiles(segment, gradient);
    for_tiles(segment, first, last, sums, [&](Index begin, Index n, double* out) {
        tiles.open(begin, n);
        if (prepare.changes_gradient) tiles.prepare_gradient(constants, gradient, n);
        reduce_tile<R::sums, T>(terms_of, tiles.p, tiles.g, tiles.state, n, out,
                                std::make_index_sequence<R::state.size()>{});
        tiles.close_state(terms_of, n);
    });
}

// See RuleLoops::sum_rows_f32.
template <class R, class T>
void sum_rows(const Segment& segment, const Gradient& gradient, const StepConstants& constants, Index begin, Index end,
              double* sums) {
    const ReduceTerms<R> terms_of{restore<R>(constants, sizeof(T) == 8)};
    const Prepare<T> prepare(constants, gradient);
    Tiles<R, T> tiles(segment, gradient);
    tiles.open(begin, end - begin);
    if (prepare.changes_gradient) tiles.prepare_gradient(constants, gradient, end - begin);
    constexpr auto kStates = std::make_index_sequence<R::state.size()>{};
    if (segment.rows.size == 1)
        return take_terms<T>(terms_of, tiles.p, tiles.g, tiles.state, end - begin, sums, kStates);
    for_row_tiles(segment.rows.size, begin, end, [&](Index at, Index n) {
        std::array<Cell<T>*, R::state.size()> state;
        std::transform(tiles.state, tiles.state + state.size(), state.begin(),
                       [=](auto* x) { return x + (at - begin); });
        reduce_tile<1, T>(terms_of, tiles.p + (at - begin), tiles.g + (at - begin), state.data(), n, sums++, kStates);
    });
}

// See FinalizeRows.
template <class R, class T>
void finalize_rows(const StepConstants& constants, Index row_size, const double* sums, void* state, const Index* rows,
                   void* factors, Index n) {
    const R rule = restore<R>(constants, sizeof(T) == 8);
    const bool flushes = constants.flushes;
    auto* const numbers = static_cast<Cell<T>*>(state);
    auto* const factor = static_cast<Cell<T>*>(factors);
    const auto finalize = [=](auto place) {
        FO_IVDEP
        for (Index i = 0; i < n; ++i) {
            T next = numbers[place(i)].value;
            factor[i].value = rule.row_factor(sums[i] / double(row_size), next);
            numbers[place(i)].value = flushes ? flush_subnormal(next) : next;
        }
    };
    rows ? finalize([rows](Index i) { return rows[i]; }) : finalize([](Index i) { return i; });
}

}  // namespace fo::FO_TARGET
