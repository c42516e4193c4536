// Conversions of compressed state with AVX-512 or AVX2, in vectors of 16 or 8 elements: the codes of whole blocks, and
// rounding to bfloat16 at random in groups of 64.  Equal to block_codes.h and extra_bits.h in every bit.  Other
// instruction sets and compilers than GCC, whose vector types this uses, have only the loops over these.
#pragma once

#include "../block_codes.h"
#include "../extra_bits.h"
#include "ahead.h"
#include "convert.h"
#include "vectorize.h"

#if defined(FO_CONVERTS_BLOCKS) && defined(__GNUC__) && !defined(__clang__)
#define FO_CONVERTS_CODES

namespace fo::FO_TARGET {

#if defined(__AVX512F__)
inline constexpr int kVectorLanes = 16;
#else
inline constexpr int kVectorLanes = 8;
#endif
inline constexpr int kVectors = int(kCodeBlock) / kVectorLanes, kWordVectors = kWordsOfGroup / kVectorLanes;
inline constexpr int kVectorBytes = 4 * kVectorLanes;
static_assert(kCodeBlock == kRoundingGroup);

// Conversions between these types keep the bits.
using Floats = float __attribute__((vector_size(kVectorBytes)));
using Ints = std::int32_t __attribute__((vector_size(kVectorBytes)));
using Unsigneds = std::uint32_t __attribute__((vector_size(kVectorBytes)));
using Bytes = std::uint8_t __attribute__((vector_size(kVectorBytes)));

// The instructions that vector types lack.
#if defined(__AVX512F__)

inline constexpr Ints kLaneOf = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Return a vector of equal numbers that the compiler keeps in a register: it would make each again in every block.
template <class V, class T>
FO_INLINE V repeat(T value) {
    V vector = V{} + value;
    asm("" : "+v"(vector));
    return vector;
}

FO_INLINE bool any_above(Unsigneds x, Unsigneds bound) {
    return _mm512_cmp_epu32_mask(__m512i(x), __m512i(bound), _MM_CMPINT_NLE) != 0;
}

// Narrow four vectors to bytes, which are saturated: in each 16 bytes, four of each vector.
template <bool kSigned>
FO_INLINE Bytes pack(const Ints* x) {
    const __m512i low = _mm512_packs_epi32(__m512i(x[0]), __m512i(x[1]));
    const __m512i high = _mm512_packs_epi32(__m512i(x[2]), __m512i(x[3]));
    return Bytes(kSigned ? _mm512_packs_epi16(low, high) : _mm512_packus_epi16(low, high));
}

template <bool kSigned>
FO_INLINE Ints widen_bytes(const void* from) {
    const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(from));
    return Ints(kSigned ? _mm512_maskz_cvtepi8_epi32(kAll, bytes) : _mm512_maskz_cvtepu8_epi32(kAll, bytes));
}

// Return bfloat16 numbers as patterns of float32.
FO_INLINE Ints widen_bfloat16(const void* from) {
    return Ints(_mm512_maskz_cvtepu16_epi32(kAll, _mm256_loadu_si256(static_cast<const __m256i*>(from)))) << 16;
}

#else

inline constexpr Ints kLaneOf = {0, 1, 2, 3, 4, 5, 6, 7};

template <class V, class T>
FO_INLINE V repeat(T value) {
    return V{} + value;
}

FO_INLINE bool any_above(Unsigneds x, Unsigneds bound) { return _mm256_movemask_epi8(__m256i(x > bound)) != 0; }

template <bool kSigned>
FO_INLINE Bytes pack(const Ints* x) {
    const __m256i low = _mm256_packs_epi32(__m256i(x[0]), __m256i(x[1]));
    const __m256i high = _mm256_packs_epi32(__m256i(x[2]), __m256i(x[3]));
    return Bytes(kSigned ? _mm256_packs_epi16(low, high) : _mm256_packus_epi16(low, high));
}

template <bool kSigned>
FO_INLINE Ints widen_bytes(const void* from) {
    const __m128i bytes = _mm_loadl_epi64(static_cast<const __m128i*>(from));
    return Ints(kSigned ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes));
}

FO_INLINE Ints widen_bfloat16(const void* from) { return Ints(from_bfloat16(from, 0)); }

#endif

// Store the upper 16 bits of each number of both vectors.
FO_INLINE void store_upper_halves(Unsigneds a, Unsigneds b, void* to) {
    store_words(upper_halves(WordVector(a), WordVector(b)), to);
}

// The place of each four bytes among those of pack.
inline constexpr Ints kPackedOrder = kLaneOf % (kVectorLanes / 4) * 4 + kLaneOf / (kVectorLanes / 4);

// Load from any address, and store.  memcpy would copy two halves, and loading these as one waits for both stores.
template <class V>
FO_INLINE V load_vector(const void* from) {
    typedef V Unaligned __attribute__((may_alias, aligned(1)));
    return *static_cast<const Unaligned*>(from);
}

template <class V>
FO_INLINE void store_vector(V vector, void* to) {
    typedef V Unaligned __attribute__((may_alias, aligned(1)));
    *static_cast<Unaligned*>(to) = vector;
}

// The words of random bits of groups, and the bytes that groups share.
class RandomWords {
  public:
    // `group` is the first one.
    RandomWords(const Words& key, std::uint32_t group) : group_(group) {
        for (int i = 0; i < 4; ++i) key_[i] = repeat<Unsigneds>(key.word[i]);
        key_[0] += Unsigneds(kLaneOf);
        for (int i = 0; i < 3; ++i) factors_[i] = repeat<Unsigneds>(kFactors[i]);
    }

    // Those of the i-th group.
    struct Group {
        Unsigneds words[kWordVectors];
    };
    FO_INLINE Group of_group(std::uint32_t i) const {
        Group group;
        for (int k = 0; k < kWordVectors; ++k) group.words[k] = hash((group_ + i) * kWordsOfGroup + k * kVectorLanes);
        return group;
    }

    // Of the groups from the i-th on.
    FO_INLINE Unsigneds shared_bytes(std::uint32_t i) const {
        return (key_[3] + (Unsigneds(kLaneOf) + (group_ + i)) * 0x9e3779b9u) >> 24;
    }

  private:
    static constexpr std::uint32_t kFactors[] = {0xed5ad4bb, 0xac4c1b51, 0x31848bab};

    // See rounding_word.
    FO_INLINE Unsigneds hash(std::uint32_t index) const {
        Unsigneds x = key_[0] + index;
        x = ((x ^ x >> 17) + key_[1]) * factors_[0];
        x = ((x ^ x >> 11) + key_[2]) * factors_[1];
        x = ((x ^ x >> 15) + key_[3]) * factors_[2];
        return x ^ x >> 14;
    }

    const std::uint32_t group_;
    Unsigneds key_[4], factors_[3];  // the first of the key plus the lane
};

// Return the words of the i-th vector of a group's elements: the byte of each at bit kByteAt.
template <int kByteAt, int i>
FO_INLINE Unsigneds bytes_at(const RandomWords::Group& group) {
    constexpr int kShift = kByteAt - i / kWordVectors * 8;
    const Unsigneds words = group.words[i % kWordVectors];
    return kShift < 0 ? words >> (-kShift & 31) : words << (kShift & 31);
}

// Call f with each number below kCount as a constant.
template <int kCount, class F>
FO_INLINE void for_constants(const F& f) {
    [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
        (f(std::integral_constant<int, i>()), ...);
    }(std::make_integer_sequence<int, kCount>());
}

template <class V>
FO_INLINE V larger(V a, V b) {
    return a > b ? a : b;
}

// Return the largest of each lane; changes x.
FO_INLINE Unsigneds largest_vector(Unsigneds (&x)[kVectors]) {
    for (int n = kVectors / 2; n > 0; n /= 2)
        for (int i = 0; i < n; ++i) x[i] = larger(x[i], x[i + n]);
    return x[0];
}

// Return the largest lane of each of kVectorLanes vectors.
FO_INLINE Unsigneds largest_lanes(const Unsigneds* x) {
    const Ints even = kLaneOf * 2, odd = even + 1;
    Unsigneds folded[kVectorLanes];
    for (int i = 0; i < kVectorLanes; ++i) folded[i] = x[i];
    // Lane l of a fold has the lanes 2l and 2l + 1 of both vectors.
    for (int n = kVectorLanes / 2; n > 0; n /= 2)
        for (int i = 0; i < n; ++i)
            folded[i] = larger(__builtin_shuffle(folded[2 * i], folded[2 * i + 1], even),
                               __builtin_shuffle(folded[2 * i], folded[2 * i + 1], odd));
    return folded[0];
}

// Encodes blocks of one array, at most kMost at a time.
template <class Code>
class BlockEncoder {
    static constexpr bool kSigned = std::is_signed_v<typename Code::type>;
    using Random = CodeRandom<Code>;

  public:
    static constexpr int kMost = 16;

    // `group` is that of the first block.
    BlockEncoder(const Words& key, std::uint32_t group) : words_(key, group) {
        for (int i = 0; i < kMost; i += kVectorLanes)
            store_vector(Random::pattern_of_rest(words_.shared_bytes(std::uint32_t(i))), rests_ + i);
    }

    // Encode blocks; return false, and write no code, if an element is not finite, or of a non-negative array has a
    // sign.
    bool encode(const float* from, int blocks, void* to, float* scales, cpu::Ahead& ahead) {
        for (int i = 0; i < blocks; i += kVectorLanes)
            if (!measure(from + i * kCodeBlock, std::min(blocks - i, kVectorLanes), scales + i, factors_ + i))
                [[unlikely]]
                return false;
        auto* const bytes = static_cast<char*>(to);
        for (int block = 0; block < blocks; ++block) {
            ahead.fetch();
            encode_block(from + block * kCodeBlock, block, bytes + block * kCodeBlock);
        }
        return true;
    }

  private:
    // Return the pattern without its sign, which no element of a non-negative array has.
    FO_INLINE Unsigneds magnitude(Unsigneds x) const { return kSigned ? x & magnitude_ : x; }

    // Compute the scale and the factor of each block; return whether all elements can be encoded.
    FO_INLINE bool measure(const float* from, int blocks, float* scales, float* factors) const {
        Unsigneds largest_of[kVectorLanes];
        for (int block = 0; block < blocks; ++block, from += kCodeBlock) {
            Unsigneds x[kVectors];
            for (int i = 0; i < kVectors; ++i) x[i] = magnitude(load_vector<Unsigneds>(from + i * kVectorLanes));
            largest_of[block] = largest_vector(x);
        }
        for (int block = blocks; block < kVectorLanes; ++block) largest_of[block] = Unsigneds{};
        const Unsigneds largest = largest_lanes(largest_of);
        if (any_above(largest, Unsigneds{} + 0x7f7fffffu)) return false;
        const Unsigneds least = larger(largest, Unsigneds{} + bits<std::uint32_t>(0x1p-110f));
        const Floats scale = Floats(largest == 0 ? Unsigneds{} : least);
        std::memcpy(scales, &scale, static_cast<std::size_t>(blocks) * sizeof(float));
        store_vector(2 * Code::kUnits / Floats(least), factors);
        return true;
    }

    FO_INLINE void encode_block(const float* from, int block, void* to) const {
        const RandomWords::Group words = words_.of_group(static_cast<std::uint32_t>(block));
        const float factor = factors_[block];
        const std::uint32_t rest = rests_[block];
        Ints magnitudes[kVectors], codes[kVectors];
        for_constants<kVectors>([&](auto i) __attribute__((always_inline)) {
            const Unsigneds x = load_vector<Unsigneds>(from + i * kVectorLanes);
            magnitudes[i] = Ints(magnitude(x));
            const Floats random = Floats((bytes_at<Random::kByteAt, i>(words) & mask_) | rest);
            codes[i] = encode_vector(x, Floats(magnitudes[i]), factor, random);
        });
        for (int i = 0; i < kVectors; i += 4) {
            Bytes bytes = pack<kSigned>(codes + i);
            if constexpr (!kSigned) {  // a positive number is never zero
                const Bytes positive = pack<false>(magnitudes + i), least = positive < ones_ ? positive : ones_;
                bytes = bytes > least ? bytes : least;
            }
            store_vector(__builtin_shuffle(Ints(bytes), order_), static_cast<char*>(to) + i * kVectorLanes);
        }
    }

    // Twice the units have half a pattern that is 2^-63 times the place, so that one exact product replaces the
    // addition of the bias.
    FO_INLINE Ints encode_vector(Unsigneds x, Floats positive, float factor, Floats random) const {
        const Floats units = positive * factor + zero_;
        Floats above = Floats(Ints(units) >> 1) * scale_ - random;
        if constexpr (kSigned) above = Floats((x & ~magnitude_) | Unsigneds(above));
        return __builtin_convertvector(above, Ints);
    }

    const RandomWords words_;
    const Ints order_ = kPackedOrder;
    const Bytes ones_ = Bytes(repeat<Ints>(0x01010101));
    const Floats zero_ = repeat<Floats>(2 * Code::kUnitsOfFirst), scale_ = repeat<Floats>(0x1p63f);
    const Unsigneds mask_ = repeat<Unsigneds>(0xffu << Random::kByteAt), magnitude_ = repeat<Unsigneds>(0x7fffffffu);
    alignas(64) float factors_[kMost];
    alignas(64) std::uint32_t rests_[kMost];
};

// Rounds groups of one array to bfloat16 at random.
class GroupRounder {
  public:
    // `group` is the first one.
    GroupRounder(const Words& key, std::uint32_t group) : words_(key, group), group_(group), key_(key) {}

    // Round a group; return false, and write nothing, if a number is not finite or beyond the largest.
    FO_INLINE bool round(const float* from, std::uint32_t i, void* to) const {
        const RandomWords::Group words = words_.of_group(i);
        const std::uint32_t shared = shared_byte(key_, group_ + i);
        Unsigneds x[kVectors], magnitudes[kVectors];
        for (int k = 0; k < kVectors; ++k) {
            x[k] = load_vector<Unsigneds>(from + k * kVectorLanes);
            magnitudes[k] = x[k] & magnitude_;
        }
        if (any_above(largest_vector(magnitudes), largest_)) [[unlikely]]
            return false;
        for_constants<kVectors>(
            [&](auto k) __attribute__((always_inline)) { x[k] += (bytes_at<8, k>(words) & mask_) | shared; });
        for (int k = 0; k < kVectors; k += 2)
            store_upper_halves(x[k], x[k + 1], static_cast<char*>(to) + 2 * k * kVectorLanes);
        return true;
    }

  private:
    const RandomWords words_;
    const std::uint32_t group_;
    const Words& key_;
    const Unsigneds magnitude_ = repeat<Unsigneds>(0x7fffffffu), largest_ = repeat<Unsigneds>(0x7f7f0000u);
    const Unsigneds mask_ = repeat<Unsigneds>(0xff00u);
};

// Decode 64 bfloat16 parameters and the 8 bits of each (SplitPair).
FO_INLINE void decode_pairs(const void* narrow, const void* low, float* to) {
    for (int i = 0; i < kVectors; ++i) {
        const int at = i * kVectorLanes;
        const Ints upper = widen_bfloat16(static_cast<const char*>(narrow) + 2 * at), magnitude = upper & 0x7fffffff;
        const Ints sum = magnitude + (widen_bytes<true>(static_cast<const char*>(low) + at) << 8);
        const Ints most = magnitude > 0x7f800000 ? Ints{} + INT32_MAX : Ints{} + 0x7f800000;
        const Ints bounded = larger(sum, Ints{});
        store_vector((bounded < most ? bounded : most) | (upper & INT32_MIN), to + at);
    }
}

// Encode them; return false, and write nothing, if one is NaN.
FO_INLINE bool encode_pairs(const float* from, void* narrow, void* low) {
    Ints x[kVectors], wide[kVectors];
    Unsigneds magnitudes[kVectors];
    for (int i = 0; i < kVectors; ++i) {
        x[i] = load_vector<Ints>(from + i * kVectorLanes);
        const Ints magnitude = x[i] & 0x7fffffff;
        magnitudes[i] = Unsigneds(magnitude);
        wide[i] = (magnitude + 0x7f + (magnitude >> 8 & 1)) >> 8;
        x[i] = (x[i] & INT32_MIN) | (wide[i] + 0x80) << 8;
        wide[i] &= 0xff;
    }
    if (any_above(largest_vector(magnitudes), Unsigneds{} + 0x7f800000u)) [[unlikely]]
        return false;
    for (int i = 0; i < kVectors; i += 2)
        store_upper_halves(Unsigneds(x[i]), Unsigneds(x[i + 1]), static_cast<char*>(narrow) + 2 * i * kVectorLanes);
    for (int i = 0; i < kVectors; i += 4)
        store_vector(__builtin_shuffle(Ints(pack<false>(wide + i)), kPackedOrder),
                     static_cast<char*>(low) + i * kVectorLanes);
    return true;
}

template <class Code>
FO_INLINE void decode_block(const void* from, float scale, float* to) {
    constexpr bool kSigned = std::is_signed_v<typename Code::type>;
    for (int i = 0; i < kVectors; ++i) {
        const Ints k = widen_bytes<kSigned>(static_cast<const char*>(from) + i * kVectorLanes);
        const Ints magnitude = kSigned ? larger(k, -k) : k;
        const Ints place = Ints(__builtin_convertvector(magnitude + Code::kZero, Floats));
        const Floats units = Floats((place - kHalfBias) << 1) - Code::kUnitsOfFirst;
        Floats share = units * Code::kInverse;
        if constexpr (kSigned) share = Floats(Ints(share) | (k & INT32_MIN));
        store_vector(share * scale, to + i * kVectorLanes);
    }
}

}  // namespace fo::FO_TARGET

#endif
