// Conversions of what an update does not take as it is stored: parameters of 16 bits with extra bits or rounded
// randomly, and compressed state.  StorageLoops is their table.
#include "block_kernels.h"
#include "convert.h"
#include "stages.h"
#include "tile_sums.h"
#include "vectorize.h"

#include <algorithm>

namespace fo::cpu::FO_ISA {

using namespace FO_TARGET;

namespace {

// The pair that block_kernels.h converts.
using VectorPair = SplitPair<Bfloat16, std::int8_t, 8>;

template <class T>
Cell<T>* cells_at(void* data, Index begin) {
    return static_cast<Cell<T>*>(data) + begin;
}

// Call f for parts of a tile, from one place to another, and fetch ahead in between.
template <class F>
void in_parts(Index n, Ahead& ahead, const F& f) {
    constexpr Index kPart = 4 * kCodeBlock;
    for (Index at = 0; at < n; at += kPart) {
        const Index end = std::min(at + kPart, n);
        for (Index i = at; i < end; i += kCodeBlock) ahead.fetch();
        f(at, end);
    }
}

void decode_compensated(const Segment& segment, Index begin, Cell<float>* to, Index n, Ahead& ahead) {
    const auto* const p = cells_at<std::uint16_t>(segment.p.data, begin);
    const auto* const rests = cells_at<std::uint16_t>(segment.extra.data, begin);
    with_narrow(segment.p.format, [&](auto narrow) {
        using Kind = decltype(narrow);
        constexpr Format kFormat = Narrow<Kind>::kFormat;
        constexpr float kHalfGap = Narrow<Kind>::kHalfGap;
        in_parts(n, ahead, [=](Index at, Index end) {
            at = in_blocks<float>(at, end, [=](auto i) {
                Cell<float> rounded[kBlock], rest[kBlock];
                load_block(kFormat, p + i, rounded);
                load_block(kFormat, rests + i, rest);
                FO_IVDEP
                for (int k = 0; k < kBlock; ++k) to[i + k].value = add_rest(rounded[k].value, rest[k].value, kHalfGap);
            });
            FO_IVDEP
            for (Index i = at; i < end; ++i)
                to[i].value = add_rest(Kind::template decode<float>(p[i].value),
                                       Kind::template decode<float>(rests[i].value), kHalfGap);
        });
    });
}

void encode_compensated(const Segment& segment, Index begin, const Cell<float>* from, Index n, Ahead& ahead) {
    auto* const p = cells_at<std::uint16_t>(segment.p.data, begin);
    auto* const rests = cells_at<std::uint16_t>(segment.extra.data, begin);
    with_narrow(segment.p.format, [&](auto narrow) {
        using Kind = decltype(narrow);
        constexpr Format kFormat = Narrow<Kind>::kFormat;
        in_parts(n, ahead, [=](Index at, Index end) {
            at = in_blocks<float>(at, end, [=](auto i) {
                Cell<float> rest[kBlock];
                store_block(kFormat, from + i, p + i);
                load_block(kFormat, p + i, rest);
                FO_IVDEP
                for (int k = 0; k < kBlock; ++k) rest[k].value = rest_of(from[i + k].value, rest[k].value);
                store_block(kFormat, rest, rests + i);
            });
            FO_IVDEP
            for (Index i = at; i < end; ++i) {
                p[i].value = Kind::encode(from[i].value);
                rests[i].value = Kind::encode(rest_of(from[i].value, Kind::template decode<float>(p[i].value)));
            }
        });
    });
}

void decode_parameter(const Segment& segment, Index begin, void* to, Index n, Ahead& ahead) {
    const ArrayRef& p = segment.p;
    auto* const target = static_cast<Cell<float>*>(to);
    if (segment.extra.kind == Extra::kCompensation) return decode_compensated(segment, begin, target, n, ahead);
    if (segment.extra.kind == Extra::kNone)
        return in_parts(n, ahead, [&](Index at, Index end) {
            decode<float>(p.format, element(p.data, p.format, begin + at), target + at, end - at);
        });
    with_pair(p.format, segment.extra.kind, [&](auto pair) {
        using Kind = decltype(pair);
        const auto* const narrow = cells_at<std::uint16_t>(p.data, begin);
        const auto* const low = cells_at<typename Kind::low_type>(segment.extra.data, begin);
        in_parts(n, ahead, [=](Index at, Index end) {
#if defined(FO_CONVERTS_CODES)
            if constexpr (std::is_same_v<Kind, VectorPair>)
                for (; at + kCodeBlock <= end; at += kCodeBlock)
                    decode_pairs(narrow + at, low + at, reinterpret_cast<float*>(target + at));
#endif
            FO_IVDEP
            for (Index i = at; i < end; ++i) target[i].value = Kind::decode(narrow[i].value, low[i].value);
        });
    });
}

std::uint64_t place_of(const Segment& segment, Index begin) {
    return static_cast<std::uint64_t>(segment.first_element + begin);
}

// Whether n elements begin with a group of random bits, and have one key.
[[maybe_unused]] bool has_whole_groups(const RoundingKey& key, std::uint64_t place, Index n) {
    return place % kRoundingGroup == 0 && (place + static_cast<std::uint64_t>(n) - 1) >> 34 == key.part;
}

// The random bits of elements in any place, each with its first byte at bit kByteAt; `pattern_of_rest` returns the bits
// around that byte.
template <int kByteAt>
class RandomPatterns {
  public:
    template <class PatternOfRest>
    RandomPatterns(const RoundingKey& key, std::uint64_t first, Index n, PatternOfRest pattern_of_rest)
        : skipped_(first % kRoundingGroup) {
        const std::uint64_t begin = first - skipped_, end = first + static_cast<std::uint64_t>(n);
        std::uint32_t* to = patterns_;
        for (std::uint64_t at = begin; at < end; at += kRoundingGroup, to += kRoundingGroup) {
            const Words words = at >> 34 == key.part ? key.words : rounding_key(key.key, at);
            const auto group = static_cast<std::uint32_t>(at / kRoundingGroup);
            write_group(words, group * kWordsOfGroup, pattern_of_rest(shared_byte(words, group)), to);
        }
    }

    const std::uint32_t* begin() const { return patterns_ + skipped_; }

  private:
    // Where this is inlined, GCC 12 does not vectorize it.
    FO_NOINLINE static void write_group(const Words& key, std::uint32_t index, std::uint32_t rest, std::uint32_t* to) {
        std::uint32_t words[kWordsOfGroup];
        for (int lane = 0; lane < kWordsOfGroup; ++lane) words[lane] = rounding_word(key, index + std::uint32_t(lane));
        write_bytes<0>(words, rest, to);
        write_bytes<1>(words, rest, to + kWordsOfGroup);
        write_bytes<2>(words, rest, to + 2 * kWordsOfGroup);
        write_bytes<3>(words, rest, to + 3 * kWordsOfGroup);
    }

    template <int kByte>
    static void write_bytes(const std::uint32_t* words, std::uint32_t rest, std::uint32_t* to) {
        constexpr int kShift = kByteAt - 8 * kByte;
        for (int lane = 0; lane < kWordsOfGroup; ++lane) {
            const std::uint32_t shifted = kShift < 0 ? words[lane] >> (-kShift & 31) : words[lane] << (kShift & 31);
            to[lane] = (shifted & 0xffu << kByteAt) | rest;
        }
    }

    const std::uint64_t skipped_;
    alignas(64) std::uint32_t patterns_[kSumTile + 2 * kRoundingGroup];
};

struct RandomBits : RandomPatterns<8> {
    RandomBits(const RoundingKey& key, std::uint64_t first, Index n)
        : RandomPatterns<8>(key, first, n, [](std::uint32_t rest) { return rest; }) {}
};

template <class Kind>
void round_some(const RoundingKey& key, std::uint64_t place, const float* from, Cell<std::uint16_t>* to, Index n) {
    const RandomBits random(key, place, n);
    const std::uint32_t* const each = random.begin();
    FO_IVDEP
    for (Index i = 0; i < n; ++i) to[i].value = round_randomly<Kind>(from[i], std::uint16_t(each[i]));
}

// Round a tile to bfloat16.
void round_to_bfloat16(const RoundingKey& key, std::uint64_t place, const float* from, Cell<std::uint16_t>* to, Index n,
                       Ahead& ahead) {
    Index at = 0;
#if defined(FO_CONVERTS_CODES)
    if (has_whole_groups(key, place, n)) {
        const GroupRounder rounder(key.words, static_cast<std::uint32_t>(place / kRoundingGroup));
        for (std::uint32_t group = 0; at + kCodeBlock <= n; at += kCodeBlock, ++group) {
            ahead.fetch();
            if (!rounder.round(from + at, group, to + at)) break;
        }
        if (at == n) return;
    }
#endif
    for (Index i = at; i < n; i += kCodeBlock) ahead.fetch();
    round_some<Bfloat16>(key, place + static_cast<std::uint64_t>(at), from + at, to + at, n - at);
}

void encode_randomly(const Segment& segment, const RoundingKey& key, Index begin, const float* from, Index n,
                     Ahead& ahead) {
    auto* const to = cells_at<std::uint16_t>(segment.p.data, begin);
    const std::uint64_t place = place_of(segment, begin);
    if (segment.p.format == Format::kBfloat16) return round_to_bfloat16(key, place, from, to, n, ahead);
    in_parts(n, ahead, [&](Index at, Index end) {
        round_some<Float16>(key, place + static_cast<std::uint64_t>(at), from + at, to + at, end - at);
    });
}

void encode_parameter(const Segment& segment, const RoundingKey& key, Index begin, const void* from, Index n,
                      Ahead& ahead) {
    const auto* const source = static_cast<const Cell<float>*>(from);
    if (segment.extra.kind == Extra::kNone)
        return encode_randomly(segment, key, begin, static_cast<const float*>(from), n, ahead);
    if (segment.extra.kind == Extra::kCompensation) return encode_compensated(segment, begin, source, n, ahead);
    with_pair(segment.p.format, segment.extra.kind, [&](auto pair) {
        using Kind = decltype(pair);
        auto* const narrow = cells_at<std::uint16_t>(segment.p.data, begin);
        auto* const low = cells_at<typename Kind::low_type>(segment.extra.data, begin);
        in_parts(n, ahead, [=](Index at, Index end) {
#if defined(FO_CONVERTS_CODES)
            if constexpr (std::is_same_v<Kind, VectorPair>)
                while (at + kCodeBlock <= end &&
                       encode_pairs(reinterpret_cast<const float*>(source + at), narrow + at, low + at))
                    at += kCodeBlock;
#endif
            FO_IVDEP
            for (Index i = at; i < end; ++i) {
                const auto encoded = Kind::encode(source[i].value);
                narrow[i].value = encoded.narrow;
                low[i].value = encoded.low;
            }
        });
    });
}

// ---- compressed state

template <class Code>
void decode_some(const Cell<typename Code::type>* from, float scale, float* to, Index n) {
    FO_IVDEP
    for (Index i = 0; i < n; ++i) to[i] = Code::decode(from[i].value, scale);
}

template <class Code>
void decode_whole_block(const Cell<typename Code::type>* from, float scale, float* to) {
#if defined(FO_CONVERTS_CODES)
    decode_block<Code>(from, scale, to);
#else
    decode_some<Code>(from, scale, to, kCodeBlock);
#endif
}

template <class Code>
void decode_blocks(const CompressionRef& ref, void* codes, Index begin, float* to, Index n, Ahead& ahead) {
    const auto* const from = cells_at<typename Code::type>(codes, begin);
    const float* const scales = ref.scales + begin / kCodeBlock;
    Index at = 0;
    for (; at + kCodeBlock <= n; at += kCodeBlock) {
        ahead.fetch();
        FO_PREFETCH(from + at + kSumTile);
        decode_whole_block<Code>(from + at, scales[at / kCodeBlock], to + at);
    }
    if (at < n) decode_some<Code>(from + at, scales[at / kCodeBlock], to + at, n - at);
}

// Encode at most a tile of whole blocks.
template <class Code>
void encode_each(const float* from, const std::uint32_t* random, Cell<typename Code::type>* to, float* scales,
                 Index blocks, Ahead& ahead) {
    using Type = typename Code::type;
    float factors[kSumTile / kCodeBlock];
    bool is_finite[kSumTile / kCodeBlock];
    for (Index block = 0; block < blocks; ++block) {
        const float* const x = from + block * kCodeBlock;
        std::int32_t largest = 0;
        for (int i = 0; i < kCodeBlock; ++i) largest = std::max(largest, bits<std::int32_t>(x[i]) & 0x7fffffff);
        is_finite[block] = largest < 0x7f800000;
        if (!is_finite[block]) [[unlikely]] {
            largest = 0;
            for (int i = 0; i < kCodeBlock; ++i) largest = std::max(largest, finite_magnitude(x[i]));
        }
        scales[block] = block_scale(largest);
    }
    for (Index block = 0; block < blocks; ++block) factors[block] = block_factor<Code>(scales[block]);
    for (Index block = 0; block < blocks; ++block) {
        const Index at = block * kCodeBlock;
        const float factor = factors[block];
        ahead.fetch();
        if (is_finite[block]) [[likely]] {
            FO_IVDEP
            for (Index i = at; i < at + kCodeBlock; ++i)
                to[i].value = static_cast<Type>(Code::encode_finite(from[i], factor, bits<float>(random[i])));
        } else {
            for (Index i = at; i < at + kCodeBlock; ++i)
                to[i].value = static_cast<Type>(Code::encode(from[i], factor, bits<float>(random[i])));
        }
    }
}

// Encode whole blocks and, if the array ends there, a part of one.
template <class Code>
FO_NOINLINE void encode_any(const RoundingKey& key, std::uint64_t place, const float* from,
                            Cell<typename Code::type>* to, float* scales, Index n, Ahead& ahead) {
    using Random = CodeRandom<Code>;
    const RandomPatterns<Random::kByteAt> random(key, place, n, &Random::template pattern_of_rest<std::uint32_t>);
    const Index blocks = n / kCodeBlock, at = blocks * kCodeBlock;
    encode_each<Code>(from, random.begin(), to, scales, blocks, ahead);
    if (at == n) return;
    float rest[kCodeBlock] = {};
    std::uint32_t random_rest[kCodeBlock] = {};
    Cell<typename Code::type> codes_rest[kCodeBlock];
    std::copy(from + at, from + n, rest);
    std::copy_n(random.begin() + at, n - at, random_rest);
    encode_each<Code>(rest, random_rest, codes_rest, scales + blocks, 1, ahead);
    std::copy(codes_rest, codes_rest + (n - at), to + at);
}

// Encode a tile.
template <class Code>
void encode_blocks(const Segment& segment, std::size_t k, const RoundingKey& key, Index begin, const float* from,
                   Index n, Ahead& ahead) {
    auto* const to = cells_at<typename Code::type>(segment.state[k].data, begin);
    float* const scales = segment.compression[k].scales + begin / kCodeBlock;
    const std::uint64_t place = place_of(segment, begin);
#if defined(FO_CONVERTS_CODES)
    static_assert(BlockEncoder<Code>::kMost * kCodeBlock == kSumTile);
    if (n % kCodeBlock == 0 && has_whole_groups(key, place, n)) {
        BlockEncoder<Code> encoder(key.words, static_cast<std::uint32_t>(place / kRoundingGroup));
        if (encoder.encode(from, int(n / kCodeBlock), to, scales, ahead)) return;
    }
#endif
    encode_any<Code>(key, place, from, to, scales, n, ahead);
}

void decode_group(const Cell<std::uint16_t>* from, Cell<float>* to) {
    const Index done =
        in_blocks<float>(0, kCodeBlock, [=](auto i) { load_block(Format::kBfloat16, from + i, to + i); });
    if (done < kCodeBlock) decode<float>(Format::kBfloat16, from, to, kCodeBlock);
}

void decode_bfloat16(const void* codes, Index begin, float* to, Index n, Ahead& ahead) {
    const auto* const from = cells_of<std::uint16_t>(codes) + begin;
    Index at = 0;
    for (; at + kCodeBlock <= n; at += kCodeBlock) {
        ahead.fetch();
        FO_PREFETCH(from + at + kSumTile);  // 64 elements have two lines
        FO_PREFETCH(from + at + kSumTile + kCodeBlock / 2);
        decode_group(from + at, cells_at<float>(to, at));
    }
    if (at < n) decode<float>(Format::kBfloat16, from + at, to + at, n - at);
}

void decode_floats(const Segment& segment, std::size_t k, Index begin, float* to, Index n, Ahead& ahead) {
    const CompressionRef& ref = segment.compression[k];
    void* const codes = segment.state[k].data;
    switch (ref.kind) {
        case Compression::kSigned: return decode_blocks<SignedCode>(ref, codes, begin, to, n, ahead);
        case Compression::kNonNegative: return decode_blocks<NonNegativeCode>(ref, codes, begin, to, n, ahead);
        default: return decode_bfloat16(codes, begin, to, n, ahead);
    }
}

void encode_floats(const Segment& segment, std::size_t k, const RoundingKey& key, Index begin, const float* from,
                   Index n, Ahead& ahead) {
    switch (segment.compression[k].kind) {
        case Compression::kSigned: return encode_blocks<SignedCode>(segment, k, key, begin, from, n, ahead);
        case Compression::kNonNegative: return encode_blocks<NonNegativeCode>(segment, k, key, begin, from, n, ahead);
        default: break;
    }
    auto* const to = cells_at<std::uint16_t>(segment.state[k].data, begin);
    round_to_bfloat16(key, place_of(segment, begin), from, to, n, ahead);
}

void decode_state(const Segment& segment, std::size_t k, Index begin, void* to, Index n, Ahead& ahead) {
    if (segment.p.format != Format::kFloat64)
        return decode_floats(segment, k, begin, static_cast<float*>(to), n, ahead);
    alignas(64) float floats[kSumTile];
    decode_floats(segment, k, begin, floats, n, ahead);
    std::copy(floats, floats + n, static_cast<double*>(to));
}

void encode_state(const Segment& segment, std::size_t k, const RoundingKey& key, Index begin, const void* from, Index n,
                  Ahead& ahead) {
    if (segment.p.format != Format::kFloat64)
        return encode_floats(segment, k, key, begin, static_cast<const float*>(from), n, ahead);
    alignas(64) float floats[kSumTile];
    const auto* const doubles = static_cast<const double*>(from);
    std::transform(doubles, doubles + n, floats, [](double x) { return float(x); });
    encode_floats(segment, k, key, begin, floats, n, ahead);
}

}  // namespace

const StorageLoops kStorageLoops{&decode_parameter, &encode_parameter, &decode_state, &encode_state};

}  // namespace fo::cpu::FO_ISA
