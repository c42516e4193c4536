// The passes of bandwidth_probe.h: words in place of numbers.  A loop of its own for every number of arrays, so that
// all of them stream side by side, and nothing but loads, exclusive ors and stores in it. Compiled once per instruction
// set; FO_TARGET names the copy.
#include "bandwidth_probe.h"

#include "../formats.h"
#include "../rule_traits.h"
#include "../rules.h"
#include "vectorize.h"

#include <type_traits>

namespace fo::FO_TARGET {
namespace {

using Index = std::int64_t;

// What a pass does: with p, with g, and with how many arrays beside them, whose order does not matter.
struct Streams {
    Access p, g;
    std::size_t written, read;
};

template <std::size_t kArrays>
constexpr Streams streams_of(const std::array<Access, kArrays>& all) {
    Streams streams{all[0], all[1], 0, 0};
    for (std::size_t k = 2; k < kArrays; ++k) {
        streams.written += all[k] == Access::kWrite;
        streams.read += all[k] == Access::kRead;
    }
    return streams;
}

template <Access kAccess, class Word>
Word loaded(const Cell<Word>& cell) {
    return kAccess == Access::kNone ? Word(0) : cell.value;
}

template <Access kAccess, class Word>
void use(Word word, Cell<Word>& cell, Word mask, Word& sum) {
    if constexpr (kAccess == Access::kWrite) cell.value = Word(word ^ mask);
    if constexpr (kAccess == Access::kRead) sum = Word(sum ^ word);
}

// `state`: first what is written, then what is read.  As a rule does, it loads all of an element before it stores any:
// a load behind a store at the same offset in another page would wait for it.
template <Streams kStreams, class P, class G, class S, std::size_t... K>
std::uint64_t stream(Cell<P>* p, Cell<G>* g, [[maybe_unused]] Cell<S>* const* state, std::uint64_t mask, Index n,
                     std::index_sequence<K...>) {
    [[maybe_unused]] constexpr auto access_of_state = [](std::size_t k) {
        return k < kStreams.written ? Access::kWrite : Access::kRead;
    };
    P p_sum = 0;
    G g_sum = 0;
    S s_sum = 0;
    FO_IVDEP
    for (Index i = 0; i < n; ++i) {
        const P x = loaded<kStreams.p>(p[i]);
        const G y = loaded<kStreams.g>(g[i]);
        [[maybe_unused]] const S s[sizeof...(K) + 1] = {state[K][i].value...};
        use<kStreams.g>(y, g[i], G(mask), g_sum);
        use<kStreams.p>(x, p[i], P(mask), p_sum);
        (use<access_of_state(K)>(s[K], state[K][i], S(mask), s_sum), ...);
    }
    return std::uint64_t(p_sum) ^ std::uint64_t(g_sum) ^ std::uint64_t(s_sum);
}

// Calls f with a word of the size that the format has.
template <class F>
std::uint64_t with_word(Format format, F f) {
    switch (item_size(format)) {
        case 2: return f(std::uint16_t{});
        case 4: return f(std::uint32_t{});
        default: return f(std::uint64_t{});
    }
}

// Calls f with a word of the size that a parameter of compute type T has: that type's, or two bytes beside float32.
template <class T, class F>
std::uint64_t with_word_of_parameter(Format format, F f) {
    if constexpr (sizeof(T) == 4)
        if (format != Format::kFloat32) return f(std::uint16_t{});
    return f(std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>{});
}

template <class Word>
Cell<Word>* cells(const void* data, Index begin) {
    return static_cast<Cell<Word>*>(const_cast<void*>(data)) + begin;
}

template <Streams kStreams, class T, std::size_t kState>
std::uint64_t pass_over(const Segment& segment, const Gradient& gradient, void* const (&state)[kState],
                        std::uint64_t mask, Index begin, Index end) {
    using S = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    Cell<S>* own[kState];
    for (std::size_t k = 0; k < kState; ++k) own[k] = cells<S>(state[k], begin);
    constexpr auto all = std::make_index_sequence<kStreams.written + kStreams.read>{};
    return with_word_of_parameter<T>(segment.format, [&](auto p) {
        return with_word(gradient.format, [&](auto g) {
            return stream<kStreams>(cells<decltype(p)>(segment.p, begin), cells<decltype(g)>(gradient.data, begin), own,
                                    mask, end - begin, all);
        });
    });
}

template <Streams kStreams>
constexpr Streams kWithAverage{kStreams.p, kStreams.g, kStreams.written + 1, kStreams.read};

// The average, where one is kept, is one more array that is written, in the pass of the update.
template <class R, class T, bool kUpdates>
std::uint64_t pass(const Segment& segment, const Gradient& gradient, std::uint64_t mask, Index begin, Index end) {
    constexpr auto access = [] {
        if constexpr (kUpdates)
            return kUpdateAccess<R, T>;
        else
            return kReduceAccess<R, T>;
    }();
    constexpr Streams streams = streams_of(access);
    const bool averages = kUpdates && segment.average;
    void* state[kMaxState + 1]{};
    std::size_t count = 0;
    if (averages) state[count++] = segment.average;
    for (const Access wanted : {Access::kWrite, Access::kRead})
        for (std::size_t k = 2; k < access.size(); ++k)
            if (access[k] == wanted) state[count++] = segment.state[k - 2];
    if constexpr (kUpdates)
        if (averages) return pass_over<kWithAverage<streams>, T>(segment, gradient, state, mask, begin, end);
    return pass_over<streams, T>(segment, gradient, state, mask, begin, end);
}

template <class R, class T>
constexpr cpu::ProbePass reduce_of() {
    if constexpr (kSums<R> > 0) return &pass<R, T, false>;
    return nullptr;
}

template <int kRule>
constexpr cpu::ProbePasses passes_of() {
    using F32 = Rule<kRule, float>;
    using F64 = Rule<kRule, double>;
    return {&pass<F32, float, true>, &pass<F64, double, true>, reduce_of<F32, float>(), reduce_of<F64, double>()};
}

constexpr auto kPasses = for_rules([](auto... rule) { return std::array{passes_of<rule>()...}; });

}  // namespace
}  // namespace fo::FO_TARGET

const fo::cpu::ProbePasses* fo::cpu::FO_JOIN(probes_, FO_TARGET)() { return fo::FO_TARGET::kPasses.data(); }
