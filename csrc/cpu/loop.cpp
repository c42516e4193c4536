// The pipeline: load, prepare, rule, store, over tiles that stay in the first-level cache, each stage a short loop
// that the compiler vectorises.  An array kept in its compute type is worked on where it is.
// Compiled once per instruction set; FO_TARGET names the copy.
#include "loop.h"

#include "../formats.h"
#include "../prepare.h"
#include "../reduce.h"
#include "../rule_traits.h"
#include "../rules.h"
#include "vectorize.h"

#include <algorithm>
#include <type_traits>

namespace fo::FO_TARGET {
namespace {

using Index = std::int64_t;

constexpr Index kTile = 1024;  // with p, g and two states in float64: 32 KiB
static_assert(kTile == kSumTile);

// The address of element i of an array in the given format.
template <class Void>
Void* at(Void* data, Format format, Index i) {
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    return static_cast<Byte*>(data) + i * Index(item_size(format));
}

template <class T>
void load(Format format, const void* from, Cell<T>* to, Index n) {
    with_format(format, [=](auto kind) {
        using Kind = decltype(kind);
        const auto* source = static_cast<const Cell<typename Kind::type>*>(from);
        FO_IVDEP
        for (Index i = 0; i < n; ++i) to[i].value = Kind::template decode<T>(source[i].value);
    });
}

void store(Format format, const Cell<float>* from, void* to, Index n) {
    with_format(format, [=](auto kind) {
        using Kind = decltype(kind);
        auto* target = static_cast<Cell<typename Kind::type>*>(to);
        FO_IVDEP
        for (Index i = 0; i < n; ++i) target[i].value = Kind::encode(from[i].value);
    });
}

// The gradient as the rule takes it: `from` itself where nothing happens to it, else in `tile`.
template <class T>
const Cell<T>* prepare_gradient(const Prepare<T> prepare, const Cell<T>* p, const Cell<T>* from, Cell<T>* tile,
                                Index n) {
    if (!prepare.changes_gradient) return from;
    FO_IVDEP
    for (Index i = 0; i < n; ++i) tile[i].value = prepare.gradient(from[i].value, p[i].value);
    return tile;
}

template <class T>
void prepare_parameter(const Prepare<T> prepare, Cell<T>* p, Index n) {
    if (!prepare.shrinks) return;
    FO_IVDEP
    for (Index i = 0; i < n; ++i) p[i].value = prepare.parameter(p[i].value);
}

template <class T>
void average_parameter(const Prepare<T> prepare, const Cell<T>* p, Cell<T>* average, Index n) {
    if (!prepare.averages) return;
    FO_IVDEP
    for (Index i = 0; i < n; ++i) average[i].value = prepare.averaged(average[i].value, p[i].value);
}

// A stretch of a parameter and its prepared gradient in their compute type: the caller's memory where it is that and
// nothing needs to change, else a copy in the first-level cache.
template <class T>
class Tile {
  public:
    Tile(const Segment& segment, const Gradient& gradient, const Prepare<T>& prepare)
        : segment_(segment),
          gradient_(gradient),
          prepare_(prepare),
          own_p_(segment.format == kOwnFormat<T>),
          own_g_(gradient.format == kOwnFormat<T>) {}

    void open(Index begin, Index n) {
        p_memory_ = at(segment_.p, segment_.format, begin);
        const void* g_memory = at(gradient_.data, gradient_.format, begin);
        if (!own_p_) load<T>(segment_.format, p_memory_, p_tile_, n);
        if (!own_g_) load<T>(gradient_.format, g_memory, g_tile_, n);
        p = own_p_ ? static_cast<Cell<T>*>(p_memory_) : p_tile_;
        g = prepare_gradient<T>(prepare_, p, own_g_ ? static_cast<const Cell<T>*>(g_memory) : g_tile_, g_tile_, n);
    }

    // Where both are in the compute type: the caller's memory as it is.
    void open_unprepared(Index begin) {
        p = static_cast<Cell<T>*>(segment_.p) + begin;
        g = static_cast<const Cell<T>*>(gradient_.data) + begin;
    }

    void close(Index n) {
        if constexpr (sizeof(T) == 4)  // float64 is kept in no other format
            if (!own_p_) store(segment_.format, p_tile_, p_memory_, n);
    }

    Cell<T>* p = nullptr;
    const Cell<T>* g = nullptr;

  private:
    alignas(64) Cell<T> p_tile_[kTile];
    alignas(64) Cell<T> g_tile_[kTile];
    const Segment& segment_;
    const Gradient& gradient_;
    const Prepare<T> prepare_;
    const bool own_p_, own_g_;
    void* p_memory_ = nullptr;
};

template <class R, class T>
auto state_at(const Segment& segment, Index begin) {
    constexpr std::size_t kState = R::state.size();
    std::array<Cell<T>*, kState + 1> state{};
    for (std::size_t k = 0; k < kState; ++k) state[k] = static_cast<Cell<T>*>(segment.state[k]) + begin;
    return state;
}

// One element: into locals, through f, and back.
template <class T, class F, std::size_t... S>
void apply_one(const F& f, Cell<T>* p, const Cell<T>* g, [[maybe_unused]] Cell<T>* const* state, Index i,
               [[maybe_unused]] std::index_sequence<S...> all) {
    T x = p[i].value;
    T s[sizeof...(S) + 1] = {state[S][i].value...};
    f(x, g[i].value, s[S]...);
    p[i].value = x;
    ((writes<S, T>(f, all) ? void(state[S][i].value = s[S]) : void()), ...);
}

template <class R, class T>
void apply(const R rule, Cell<T>* p, const Cell<T>* g, const Segment& segment, Index begin, Index n) {
    const auto state = state_at<R, T>(segment, begin);
    Cell<T>* const* s = state.data();
    FO_IVDEP
    for (Index i = 0; i < n; ++i) apply_one<T>(rule, p, g, s, i, std::make_index_sequence<R::state.size()>{});
}

// As add_pairwise, of the lanes of a tile, with every loop's end known to the compiler.
template <int kCount>
double add_lanes(const double* lanes) {
    if constexpr (kCount == 1) {
        return lanes[0];
    } else {
        static_assert(kCount % 2 == 0);
        double pairs[kCount / 2];
        for (int i = 0; i < kCount / 2; ++i) pairs[i] = lanes[2 * i] + lanes[2 * i + 1];
        return add_lanes<kCount / 2>(pairs);
    }
}

// The sums of one tile: `terms(i)` gives element i's, in double.
template <std::size_t kSums, class Terms>
void sum_tile(const Terms terms, Index n, double* sums) {
    double lanes[kSums][kLanes] = {};
    Index i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        FO_IVDEP
        for (int lane = 0; lane < kLanes; ++lane) {
            const auto each = terms(i + lane);
            for (std::size_t k = 0; k < kSums; ++k) lanes[k][lane] += each[k];
        }
    }
    for (; i < n; ++i) {
        const auto each = terms(i);
        for (std::size_t k = 0; k < kSums; ++k) lanes[k][i % kLanes] += each[k];
    }
    for (std::size_t k = 0; k < kSums; ++k) sums[k] = add_lanes<kLanes>(lanes[k]);
}

template <class R, class T, std::size_t... S>
void reduce_tile(const R rule, const Cell<T>* p, const Cell<T>* g, [[maybe_unused]] Cell<T>* const* state, Index n,
                 double* sums, [[maybe_unused]] std::index_sequence<S...> all) {
    const ReduceTerms<R> terms_of{rule};
    sum_tile<R::sums>(
        [=](Index i) {
            T s[sizeof...(S) + 1] = {state[S][i].value...};
            const auto terms = terms_of(p[i].value, g[i].value, s[S]...);
            ((writes<S, T>(terms_of, all) ? void(state[S][i].value = s[S]) : void()), ...);
            return terms;
        },
        n, sums);
}

// What the bindings constructed, in this copy's type: the same source, so the same bytes.
template <class R>
R restore(const std::byte* bytes) {
    static_assert(sizeof(R) <= kRuleBytes && std::is_trivially_copyable_v<R>);
    alignas(R) std::byte copy[sizeof(R)];
    std::memcpy(copy, bytes, sizeof(R));
    return *reinterpret_cast<const R*>(copy);
}

template <class T>
const std::byte* rule_bytes(const StepConstants& constants) {
    return sizeof(T) == 4 ? constants.rule_f32 : constants.rule_f64;
}

// A rule after decoupled decay alone, as in AdamW, for which all of the preparation would be as much arithmetic again.
template <class R, class T>
struct Shrunk {
    static constexpr auto& state = R::state;

    R rule;
    T decay_factor;

    template <class... S>
        requires std::is_invocable_v<UpdateType<R>, T&, T, S&...>
    void operator()(T& p, T g, S&... s) const {
        p = decay_factor * p;
        apply_rule(rule, p, g, s...);
    }
};

// How many elements there are before the next cache line of an array in the compute type, a whole tile where it is too
// short for that to pay: NumPy's arrays begin 16 bytes behind a line, and a vector of 64 bytes that straddles two is
// loaded twice.  State that the optimizer allocated lies in its lines as its parameter does.
template <class T>
Index until_line(const T* array, Index begin, Index end) {
    constexpr std::uintptr_t kLine = 64;
    const auto behind = reinterpret_cast<std::uintptr_t>(array + begin) % kLine;
    if (end - begin < 2 * kTile || behind == 0 || behind % sizeof(T) != 0) return kTile;
    return Index((kLine - behind) / sizeof(T));
}

template <class R, class T>
void update(const Segment& segment, const Gradient& gradient, const StepConstants& constants, Index begin, Index end) {
    const R rule = restore<R>(rule_bytes<T>(constants));
    const Prepare<T> prepare(constants, gradient);
    const bool own = segment.format == kOwnFormat<T> && gradient.format == kOwnFormat<T>;
    const bool in_one_loop = own && (prepare.changes_gradient || prepare.shrinks);
    Tile<T> tile(segment, gradient, prepare);
    Index most = own ? until_line(static_cast<const T*>(segment.p), begin, end) : kTile;
    for (Index n = 0; begin < end; begin += n, most = kTile) {
        n = std::min(end - begin, most);
        if (in_one_loop) {
            tile.open_unprepared(begin);
            // Memory then sees one long stream an array, as without preparation, and not two short ones in turn.
            if (prepare.changes_gradient)
                apply<Prepared<R, T>, T>({rule, prepare}, tile.p, tile.g, segment, begin, n);
            else
                apply<Shrunk<R, T>, T>({rule, prepare.decay_factor}, tile.p, tile.g, segment, begin, n);
        } else {
            tile.open(begin, n);
            prepare_parameter<T>(prepare, tile.p, n);
            apply<ApplyRule<R>, T>({rule}, tile.p, tile.g, segment, begin, n);
        }
        average_parameter<T>(prepare, tile.p, static_cast<Cell<T>*>(segment.average) + begin, n);
        tile.close(n);
    }
}

// Calls f(begin, n, sums) for each of these tiles.
template <class F>
void for_tiles(const Segment& segment, Index first, Index last, double* sums, F f) {
    for (Index i = first; i < last; ++i, sums += kMaxSums)
        f(i * kSumTile, std::min(segment.size - i * kSumTile, kSumTile), sums);
}

template <class R, class T>
void reduce(const Segment& segment, const Gradient& gradient, const StepConstants& constants, Index first, Index last,
            double* sums) {
    const R rule = restore<R>(rule_bytes<T>(constants));
    Tile<T> tile(segment, gradient, Prepare<T>(constants, gradient));
    for_tiles(segment, first, last, sums, [&](Index begin, Index n, double* out) {
        tile.open(begin, n);
        const auto state = state_at<R, T>(segment, begin);
        reduce_tile<R, T>(rule, tile.p, tile.g, state.data(), n, out, std::make_index_sequence<R::state.size()>{});
    });
}

template <class T>
void reduce_gradient(const Segment& segment, const Gradient& gradient, const StepConstants& constants, Index first,
                     Index last, double* sums) {
    const Prepare<T> prepare(constants, gradient);
    alignas(64) Cell<T> g[kTile];
    for_tiles(segment, first, last, sums, [&](Index begin, Index n, double* out) {
        load<T>(gradient.format, at(gradient.data, gradient.format, begin), g, n);
        sum_tile<kGradientTerms>([&g, prepare](Index i) { return gradient_terms(prepare, g[i].value); }, n, out);
    });
}

template <class R, class T>
constexpr cpu::Reduce reduce_of() {
    if constexpr (kSums<R> > 0) return &reduce<R, T>;
    return nullptr;
}

template <int kRule>
constexpr cpu::Updates updates_of() {
    using F32 = Rule<kRule, float>;
    using F64 = Rule<kRule, double>;
    return {&update<F32, float>, &update<F64, double>, reduce_of<F32, float>(), reduce_of<F64, double>()};
}

constexpr auto kUpdates = for_rules([](auto... rule) { return std::array{updates_of<rule>()...}; });

}  // namespace
}  // namespace fo::FO_TARGET

fo::cpu::Loops fo::cpu::FO_JOIN(loops_, FO_TARGET)() {
    return {fo::FO_TARGET::kUpdates.data(), &fo::FO_TARGET::reduce_gradient<float>,
            &fo::FO_TARGET::reduce_gradient<double>};
}
