// The probe's loops: those of a step with ProbeRule in place of each rule.  Compiled once per instruction set.
#include "../cpu/tile_loop.h"
#include "../rules.h"
#include "probe.h"
#include "probe_rule.h"

namespace fo::FO_TARGET {
namespace {

// A pass that writes nothing, as some reductions: its result must be used, or the compiler would remove its loads.
template <class R, class T, std::size_t... S>
void read_tile(const Cell<T>* p, const Cell<T>* g, [[maybe_unused]] Cell<T>* const* state, Index n,
               std::index_sequence<S...>) {
    WordOf<T> all = 0;
    for (Index i = 0; i < n; ++i) all ^= R::read(p[i].value, g[i].value, state[S][i].value...);
    [[maybe_unused]] static thread_local volatile WordOf<T> sink;
    sink = all;
}

template <class T>
void probe_average(const WordOf<T> mask, Cell<T>* average, Index n) {
    FO_IVDEP
    for (Index i = 0; i < n; ++i) average[i].value = bits<T>(bits<WordOf<T>>(average[i].value) ^ mask);
}

// As apply_in_blocks of tile_loop.h, several blocks at a time: GCC does not vectorise the probe's loop over one block.
template <class R, class T>
Index probe_in_blocks([[maybe_unused]] const R& rule, [[maybe_unused]] const Segment& segment,
                      [[maybe_unused]] const Gradient& gradient, [[maybe_unused]] Index begin,
                      [[maybe_unused]] Index end) {
    Index done = 0;
    if constexpr (kConvertsBlocks<T>) {
        constexpr Index kMany = 8 * kBlock;
        alignas(64) Cell<T> p[kMany], g[kMany];
        Cell<T>* state[R::state.size() + 1];
        for (; done + kMany <= end - begin; done += kMany) {
            const auto p_at = [&](Index i) { return element(segment.p.data, segment.p.format, begin + done + i); };
            for (Index i = 0; i < kMany; i += kBlock) {
                load_block(segment.p.format, p_at(i), p + i);
                load_block(gradient.format, element(gradient.data, gradient.format, begin + done + i), g + i);
            }
            for (std::size_t k = 0; k < R::state.size(); ++k)
                state[k] = static_cast<Cell<T>*>(segment.state[k].data) + begin + done;
            apply<ApplyRule<R>>({rule}, p, g, state, kMany);
            for (Index i = 0; i < kMany; i += kBlock) store_block(segment.p.format, p + i, p_at(i));
        }
    }
    return done;
}

// As update() of tile_loop.h without preparation; the mask is in the place of the rule's constants.
template <class R, class T>
void probe(const Segment& segment, const Gradient& gradient, const StepConstants& constants, Index begin, Index end,
           cpu::Staging* staging) {
    const R rule = restore<R>(constants, sizeof(T) == 8);
    Tiles<R, T> tiles(segment, gradient);
    ArrayTile<T> average(segment.average);
    if constexpr (kUpdateAccess<R, T>[0] == Access::kWrite)
        if (!staging && !tiles.has_plain_gradient() && tiles.has_plain_state() && !segment.average.data &&
            !gradient.axes && converts_blocks<T>(gradient.format))
            begin += probe_in_blocks<R, T>(rule, segment, gradient, begin, end);
    const bool aligns = !staging && tiles.has_plain_gradient();
    Index most = aligns ? until_line(static_cast<const T*>(segment.p.data), begin, end) : kTile;
    for (Index n = 0; begin < end; begin += n, most = kTile) {
        n = std::min(end - begin, most);
        if (staging) {
            staging->open(begin, n);
            tiles.bind(segment);
        }
        tiles.open(begin, n);
        if constexpr (R::kWrites)
            apply<ApplyRule<R>, kUpdateAccess<R, T>[0] == Access::kWrite>({rule}, tiles.p, tiles.g, tiles.state, n);
        else
            read_tile<R, T>(tiles.p, tiles.g, tiles.state, n, std::make_index_sequence<R::state.size()>{});
        if (segment.average.data) {
            probe_average(rule.mask, average.open(begin, n), n);
            average.close(n);
        }
        tiles.close_state(ApplyRule<R>{rule}, n);
        if constexpr (kUpdateAccess<R, T>[0] == Access::kWrite) tiles.close_parameter(n);
        if (staging) staging->close(begin, n);
    }
}

template <class R, class T, bool kReduces>
constexpr cpu::Update probe_of() {
    if constexpr (!kReduces) return &probe<ProbeRule<T, kUpdateAccess<R, T>>, T>;
    if constexpr (kReduces && (kSums<R> > 0 || kHasRowState<R>)) return &probe<ProbeRule<T, kReduceAccess<R, T>>, T>;
    return nullptr;
}

template <bool kReduces>
constexpr auto kRules = for_rules([](auto... rule) {
    return std::array{cpu::RuleLoops{Rule<rule, float>::name, probe_of<Rule<rule, float>, float, kReduces>(),
                                     probe_of<Rule<rule, double>, double, kReduces>(), nullptr, nullptr}...};
});

constexpr bench::ProbeLoops kLoops = {kRules<false>.data(), kRules<true>.data()};

}  // namespace
}  // namespace fo::FO_TARGET

namespace fo::bench {

const ProbeLoops* FO_JOIN(probe_loops_, FO_TARGET)() { return &FO_TARGET::kLoops; }

}  // namespace fo::bench
