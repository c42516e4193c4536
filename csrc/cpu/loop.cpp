// The pipeline: load, prepare, rule, store, over tiles that stay in the first-level cache, each stage a short loop
// that the compiler vectorises.  An array kept in its compute type is worked on where it is.
// Compiled once per instruction set; FO_TARGET names the copy.
#include "loop.h"

#include "../prepare.h"
#include "../rules.h"
#include "../storage.h"

#include <type_traits>

// The arrays of a call never overlap (the caller checked), so the iterations of a loop do not depend on each other.
#if defined(__clang__)
#define FO_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define FO_INDEPENDENT _Pragma("GCC ivdep")
#elif defined(_MSC_VER)
#define FO_INDEPENDENT __pragma(loop(ivdep))
#else
#define FO_INDEPENDENT
#endif

#define FO_JOIN_(a, b) a##b
#define FO_JOIN(a, b) FO_JOIN_(a, b)

namespace fo::FO_TARGET {
namespace {

using Index = std::int64_t;

constexpr Index kTile = 1024;  // with p, g and two states in float64: 32 KiB

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
        FO_INDEPENDENT
        for (Index i = 0; i < n; ++i) to[i].value = Kind::template decode<T>(source[i].value);
    });
}

void store(Format format, const Cell<float>* from, void* to, Index n) {
    with_format(format, [=](auto kind) {
        using Kind = decltype(kind);
        auto* target = static_cast<Cell<typename Kind::type>*>(to);
        FO_INDEPENDENT
        for (Index i = 0; i < n; ++i) target[i].value = Kind::encode(from[i].value);
    });
}

template <class T>
void prepare_gradient(const Prepare<T> prepare, const Cell<T>* p, Cell<T>* g, Index n) {
    if (prepare.maximize) {
        FO_INDEPENDENT
        for (Index i = 0; i < n; ++i) g[i].value = prepare.negated(g[i].value);
    }
    if (prepare.decays) {
        FO_INDEPENDENT
        for (Index i = 0; i < n; ++i) g[i].value = prepare.decayed(g[i].value, p[i].value);
    }
}

template <class T>
void prepare_parameter(const Prepare<T> prepare, Cell<T>* p, Index n) {
    if (!prepare.shrinks) return;
    FO_INDEPENDENT
    for (Index i = 0; i < n; ++i) p[i].value = prepare.shrunk(p[i].value);
}

// One element: into locals, through the rule, and back.
template <class R, class T, std::size_t... S>
void apply_one(const R& rule, Cell<T>* p, const Cell<T>* g, [[maybe_unused]] Cell<T>* const* state, Index i,
               std::index_sequence<S...>) {
    T x = p[i].value;
    T s[sizeof...(S) + 1] = {state[S][i].value...};
    rule(x, g[i].value, s[S]...);
    p[i].value = x;
    ((state[S][i].value = s[S]), ...);
}

template <class R, class T>
void apply(const R rule, Cell<T>* p, const Cell<T>* g, void* const* state, Index begin, Index n) {
    constexpr std::size_t kState = R::state.size();
    Cell<T>* s[kState + 1] = {};
    for (std::size_t k = 0; k < kState; ++k) s[k] = static_cast<Cell<T>*>(state[k]) + begin;
    FO_INDEPENDENT
    for (Index i = 0; i < n; ++i) apply_one<R, T>(rule, p, g, s, i, std::make_index_sequence<kState>{});
}

// What the bindings constructed, in this copy's type: the same source, so the same bytes.
template <class R>
R restore(const std::byte* bytes) {
    static_assert(sizeof(R) <= kRuleBytes && std::is_trivially_copyable_v<R>);
    alignas(R) std::byte copy[sizeof(R)];
    std::memcpy(copy, bytes, sizeof(R));
    return *reinterpret_cast<const R*>(copy);
}

template <class R, class T>
void update(const Segment& segment, const Gradient& gradient, const Scalars& scalars, Index begin, Index end) {
    const R rule = restore<R>(sizeof(T) == 4 ? scalars.rule_f32 : scalars.rule_f64);
    const Prepare<T> prepare(scalars);
    const bool own_p = segment.format == kOwnFormat<T>;
    const bool own_g = gradient.format == kOwnFormat<T> && !prepare.changes_gradient();

    alignas(64) Cell<T> p_tile[kTile];
    alignas(64) Cell<T> g_tile[kTile];
    for (Index n = 0; begin < end; begin += n) {
        n = end - begin < kTile ? end - begin : kTile;
        void* p_memory = at(segment.p, segment.format, begin);
        const void* g_memory = at(gradient.data, gradient.format, begin);

        auto* p = own_p ? static_cast<Cell<T>*>(p_memory) : p_tile;
        auto* g = own_g ? static_cast<const Cell<T>*>(g_memory) : g_tile;
        if (!own_p) load<T>(segment.format, p_memory, p_tile, n);
        if (!own_g) load<T>(gradient.format, g_memory, g_tile, n);
        prepare_gradient<T>(prepare, p, g_tile, n);
        prepare_parameter<T>(prepare, p, n);
        apply<R, T>(rule, p, g, segment.state, begin, n);
        if constexpr (sizeof(T) == 4)  // float64 is kept in no other format
            if (!own_p) store(segment.format, p_tile, p_memory, n);
    }
}

constexpr auto kUpdates = for_rules([](auto... rule) {
    return std::array{cpu::Updates{&update<Rule<rule, float>, float>,  //
                                   &update<Rule<rule, double>, double>}...};
});

}  // namespace
}  // namespace fo::FO_TARGET

const fo::cpu::Updates* fo::cpu::FO_JOIN(updates_, FO_TARGET)() { return fo::FO_TARGET::kUpdates.data(); }
