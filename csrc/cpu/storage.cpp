// Conversions of what an update does not take as it is stored: parameters of 16 bits with extra bits or rounded
// randomly, and compressed state.  StorageLoops is their table.
#include "../block_codes.h"
#include "../extra_bits.h"
#include "convert.h"
#include "stages.h"
#include "tile_sums.h"
#include "vectorize.h"

#include <algorithm>

namespace fo::cpu::FO_ISA {

using namespace FO_TARGET;

namespace {

// Call f with the type of a format of 16 bits.
template <class F>
void with_narrow(Format format, F f) {
    format == Format::kFloat16 ? f(Float16{}) : f(Bfloat16{});
}

// Call f with the type of a parameter's pair.
template <class F>
void with_pair(Format format, Extra kind, F f) {
    with_narrow(format, [&](auto narrow) {
        using Kind = decltype(narrow);
        kind == Extra::kBits8 ? f(SplitPair<Kind, std::int8_t, 8>{}) : f(SplitPair<Kind, std::int16_t, 16>{});
    });
}

template <class T>
Cell<T>* cells_at(void* data, Index begin) {
    return static_cast<Cell<T>*>(data) + begin;
}

float half_gap(Format format) {
    return format == Format::kFloat16 ? Narrow<Float16>::kHalfGap : Narrow<Bfloat16>::kHalfGap;
}

void decode_parameter(const Segment& segment, Index begin, void* to, Index n) {
    const ArrayRef& p = segment.p;
    const Extra kind = segment.extra.kind;
    if (kind == Extra::kNone || kind == Extra::kCompensation)
        decode<float>(p.format, element(p.data, p.format, begin), to, n);
    if (kind == Extra::kNone) return;
    if (kind == Extra::kCompensation) {
        float rest[kSumTile];
        decode<float>(p.format, element(segment.extra.data, p.format, begin), rest, n);
        auto* const sum = static_cast<float*>(to);
        const float most = half_gap(p.format);
        FO_IVDEP
        for (Index i = 0; i < n; ++i) sum[i] = add_rest(sum[i], rest[i], most);
        return;
    }
    auto* const target = static_cast<Cell<float>*>(to);
    with_pair(segment.p.format, segment.extra.kind, [&](auto pair) {
        using Kind = decltype(pair);
        const auto* const narrow = cells_at<std::uint16_t>(segment.p.data, begin);
        const auto* const low = cells_at<typename Kind::low_type>(segment.extra.data, begin);
        FO_IVDEP
        for (Index i = 0; i < n; ++i) target[i].value = Kind::decode(narrow[i].value, low[i].value);
    });
}

// Write words of random bits; the key is another one for each 2^32 of them.
void rounding_words(const RandomKey& key, std::uint64_t first, std::uint32_t* to, int n) {
    const Words own = random_words(key, first >> 32);
    const auto index = static_cast<std::uint32_t>(first);
    const int same = int(std::min<std::uint64_t>(std::uint64_t(n), (std::uint64_t(1) << 32) - index));
    FO_IVDEP
    for (int i = 0; i < same; ++i) to[i] = rounding_word(own, index + std::uint32_t(i));
    if (same < n) rounding_words(key, first + std::uint64_t(same), to + same, n - same);
}

struct LowerHalf {
    static std::uint16_t of(std::uint32_t word) { return std::uint16_t(word); }
};
struct UpperHalf {
    static std::uint16_t of(std::uint32_t word) { return std::uint16_t(word >> 16); }
};
template <class Code>
struct LowerNumber {
    static float of(std::uint32_t word) { return CodeRandom<Code>::lower(word); }
};
template <class Code>
struct UpperNumber {
    static float of(std::uint32_t word) { return CodeRandom<Code>::upper(word); }
};

// Write the halves of each group of eight words: the lower ones first, unless they are swapped.  Where this is inlined,
// GCC 12 does not vectorize it.
template <bool kSwapped, class Lower, class Upper, class T>
FO_NOINLINE void divide(const std::uint32_t* words, T* to, int groups) {
    using First = std::conditional_t<kSwapped, Upper, Lower>;
    using Second = std::conditional_t<kSwapped, Lower, Upper>;
    for (int group = 0; group < groups; ++group, words += 8, to += 16) {
        FO_IVDEP
        for (int lane = 0; lane < 8; ++lane) to[lane] = First::of(words[lane]);
        FO_IVDEP
        for (int lane = 0; lane < 8; ++lane) to[8 + lane] = Second::of(words[lane]);
    }
}

// Random bits for n elements, 16 for each.  The halves of words may be swapped.
class RandomHalves {
  public:
    RandomHalves(const RandomKey& key, std::uint64_t first, Index n)
        : skipped_(first % 16), groups_((int(skipped_) + int(n) + 15) / 16) {
        rounding_words(key, (first - skipped_) / 2, words_, 8 * groups_);
    }

    const std::uint16_t* halves(bool swapped) {
        swapped ? divide<true, LowerHalf, UpperHalf>(words_, halves_, groups_)
                : divide<false, LowerHalf, UpperHalf>(words_, halves_, groups_);
        return halves_ + skipped_;
    }

    // The same bits as random numbers for a code.
    template <class Code>
    const float* numbers(bool swapped) {
        swapped ? divide<true, LowerNumber<Code>, UpperNumber<Code>>(words_, numbers_, groups_)
                : divide<false, LowerNumber<Code>, UpperNumber<Code>>(words_, numbers_, groups_);
        return numbers_ + skipped_;
    }

  private:
    const std::uint64_t skipped_;
    const int groups_;
    alignas(64) std::uint32_t words_[kSumTile / 2 + 16];
    alignas(64) std::uint16_t halves_[kSumTile + 32];
    alignas(64) float numbers_[kSumTile + 32];
};

std::uint64_t place_of(const Segment& segment, Index begin) {
    return static_cast<std::uint64_t>(segment.first_element + begin);
}

template <class Kind>
void round_tile(const float* from, const std::uint16_t* random, Cell<std::uint16_t>* to, Index n) {
    FO_IVDEP
    for (Index i = 0; i < n; ++i) to[i].value = round_randomly<Kind>(from[i], random[i]);
}

void encode_randomly(const Segment& segment, const StepConstants& constants, Index begin, const void* from, Index n) {
    const RandomKey key{constants.seed, constants.t, segment.random_param, RandomUse::kRounding};
    RandomHalves random(key, place_of(segment, begin), n);
    with_narrow(segment.p.format, [&](auto narrow) {
        round_tile<decltype(narrow)>(static_cast<const float*>(from), random.halves(false),
                                     cells_at<std::uint16_t>(segment.p.data, begin), n);
    });
}

void encode_compensated(const Segment& segment, Index begin, const Cell<float>* from, Index n) {
    const Format format = segment.p.format;
    void* const narrow = element(segment.p.data, format, begin);
    float rest[kSumTile];
    encode<float>(format, from, narrow, n);
    decode<float>(format, narrow, rest, n);
    FO_IVDEP
    for (Index i = 0; i < n; ++i) rest[i] = rest_of(from[i].value, rest[i]);
    encode<float>(format, rest, element(segment.extra.data, format, begin), n);
}

void encode_parameter(const Segment& segment, const StepConstants& constants, Index begin, const void* from, Index n) {
    const auto* const source = static_cast<const Cell<float>*>(from);
    if (segment.extra.kind == Extra::kNone) return encode_randomly(segment, constants, begin, from, n);
    if (segment.extra.kind == Extra::kCompensation) return encode_compensated(segment, begin, source, n);
    with_pair(segment.p.format, segment.extra.kind, [&](auto pair) {
        using Kind = decltype(pair);
        auto* const narrow = cells_at<std::uint16_t>(segment.p.data, begin);
        auto* const low = cells_at<typename Kind::low_type>(segment.extra.data, begin);
        FO_IVDEP
        for (Index i = 0; i < n; ++i) {
            const auto encoded = Kind::encode(source[i].value);
            narrow[i].value = encoded.narrow;
            low[i].value = encoded.low;
        }
    });
}

// ---- compressed state

constexpr Index kPiece = 256;  // between prefetches where there are no blocks

template <class Code>
void decode_block(const Cell<typename Code::type>* from, float scale, float* to, Index n) {
    FO_IVDEP
    for (Index i = 0; i < n; ++i) to[i] = Code::decode(from[i].value, scale);
}

template <class Code>
void decode_blocks(const CompressionRef& ref, void* codes, Index begin, float* to, Index n, Ahead& ahead) {
    const auto* const from = cells_at<typename Code::type>(codes, begin);
    const float* const scales = ref.scales + begin / kCodeBlock;
    Index at = 0;
    for (; at + kCodeBlock <= n; at += kCodeBlock) {
        ahead.fetch();
        decode_block<Code>(from + at, scales[at / kCodeBlock], to + at, kCodeBlock);
    }
    if (at < n) decode_block<Code>(from + at, scales[at / kCodeBlock], to + at, n - at);
}

// Encode at most a tile of whole blocks.
template <class Code>
void encode_whole_blocks(const float* from, const float* random, Cell<typename Code::type>* to, float* scales,
                         Index blocks, Ahead& ahead) {
    float factors[kSumTile / kCodeBlock];
    for (Index block = 0; block < blocks; ++block) {
        const float* const x = from + block * kCodeBlock;
        std::int32_t largest = 0;
        for (int i = 0; i < kCodeBlock; ++i) largest = std::max(largest, bits<std::int32_t>(x[i]) & 0x7fffffff);
        if (largest >= 0x7f800000) [[unlikely]] {
            largest = 0;
            for (int i = 0; i < kCodeBlock; ++i) largest = std::max(largest, finite_magnitude(x[i]));
        }
        scales[block] = block_scale(largest);
    }
    for (Index block = 0; block < blocks; ++block) factors[block] = block_factor<Code>(scales[block]);
    for (Index block = 0; block < blocks; ++block) {
        const Index at = block * kCodeBlock;
        ahead.fetch();
        FO_IVDEP
        for (Index i = at; i < at + kCodeBlock; ++i)
            to[i].value = static_cast<typename Code::type>(Code::encode(from[i], factors[block], random[i]));
    }
}

template <class Code>
void encode_blocks(const float* from, const float* random, const CompressionRef& ref, void* codes, Index begin, Index n,
                   Ahead& ahead) {
    auto* const to = cells_at<typename Code::type>(codes, begin);
    float* const scales = ref.scales + begin / kCodeBlock;
    const Index blocks = n / kCodeBlock, at = blocks * kCodeBlock;
    encode_whole_blocks<Code>(from, random, to, scales, blocks, ahead);
    if (at == n) return;
    float rest[kCodeBlock] = {}, random_rest[kCodeBlock] = {};
    Cell<typename Code::type> codes_rest[kCodeBlock];
    std::copy(from + at, from + n, rest);
    std::copy(random + at, random + n, random_rest);
    encode_whole_blocks<Code>(rest, random_rest, codes_rest, scales + blocks, 1, ahead);
    std::copy(codes_rest, codes_rest + (n - at), to + at);
}

void decode_floats(const Segment& segment, std::size_t k, Index begin, float* to, Index n, Ahead& ahead) {
    const CompressionRef& ref = segment.compression[k];
    void* const codes = segment.state[k].data;
    switch (ref.kind) {
        case Compression::kSigned: return decode_blocks<SignedCode>(ref, codes, begin, to, n, ahead);
        case Compression::kNonNegative: return decode_blocks<NonNegativeCode>(ref, codes, begin, to, n, ahead);
        default: break;
    }
    for (Index at = 0; at < n; at += kPiece) {
        for (Index line = 0; line < kPiece; line += kCodeBlock) ahead.fetch();
        const void* const from = element(codes, Format::kBfloat16, begin + at);
        decode<float>(Format::kBfloat16, from, to + at, std::min(n - at, kPiece));
    }
}

void encode_floats(const Segment& segment, std::size_t k, Index begin, const float* from, RandomHalves& random, Index n,
                   Ahead& ahead) {
    const CompressionRef& ref = segment.compression[k];
    void* const codes = segment.state[k].data;
    const bool swapped = k % 2 == 1;
    switch (ref.kind) {
        case Compression::kSigned:
            return encode_blocks<SignedCode>(from, random.numbers<SignedCode>(swapped), ref, codes, begin, n, ahead);
        case Compression::kNonNegative:
            return encode_blocks<NonNegativeCode>(from, random.numbers<NonNegativeCode>(swapped), ref, codes, begin, n,
                                                  ahead);
        default: break;
    }
    const std::uint16_t* const halves = random.halves(swapped);
    auto* const to = cells_at<std::uint16_t>(codes, begin);
    for (Index at = 0; at < n; at += kPiece) {
        for (Index line = 0; line < kPiece; line += kCodeBlock) ahead.fetch();
        round_tile<Bfloat16>(from + at, halves + at, to + at, std::min(n - at, kPiece));
    }
}

void decode_state(const Segment& segment, std::size_t k, Index begin, void* to, Index n, Ahead& ahead) {
    if (segment.p.format != Format::kFloat64)
        return decode_floats(segment, k, begin, static_cast<float*>(to), n, ahead);
    alignas(64) float floats[kSumTile];
    decode_floats(segment, k, begin, floats, n, ahead);
    std::copy(floats, floats + n, static_cast<double*>(to));
}

// Each pair of arrays has the halves of the same random words.
void encode_state(const Segment& segment, const StepConstants& constants, std::uint32_t written, Index begin,
                  const void* const* from, Index n, Ahead& ahead) {
    for (std::uint32_t pair = 0; written >> 2 * pair != 0; ++pair) {
        if ((written >> 2 * pair & 3) == 0) continue;
        const auto use = static_cast<RandomUse>(static_cast<std::uint32_t>(RandomUse::kState) + pair);
        RandomHalves random({0, constants.t, segment.random_param, use}, place_of(segment, begin), n);
        for (std::uint32_t k = 2 * pair; k < 2 * pair + 2; ++k) {
            if ((written >> k & 1) == 0) continue;
            if (segment.p.format != Format::kFloat64) {
                encode_floats(segment, k, begin, static_cast<const float*>(from[k]), random, n, ahead);
                continue;
            }
            alignas(64) float floats[kSumTile];
            const auto* const doubles = static_cast<const double*>(from[k]);
            std::transform(doubles, doubles + n, floats, [](double x) { return float(x); });
            encode_floats(segment, k, begin, floats, random, n, ahead);
        }
    }
}

}  // namespace

const StorageLoops kStorageLoops{&decode_parameter, &encode_parameter, &decode_state, &encode_state};

}  // namespace fo::cpu::FO_ISA
