// Conversions of compressed state with AVX-512, in vectors of 16 elements: the codes of whole blocks, and rounding to
// bfloat16 at random in groups of 64.  Equal to block_codes.h and extra_bits.h in every bit.  Other instruction sets
// and compilers than GCC, whose vector types this uses, have only the loops over these.
#pragma once

#include "../block_codes.h"
#include "../extra_bits.h"
#include "ahead.h"
#include "convert.h"
#include "vectorize.h"

#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
#define FO_CONVERTS_CODES

namespace fo::FO_TARGET {

inline constexpr int kLanes = 16, kVectors = int(kCodeBlock) / kLanes;
static_assert(kCodeBlock == kRoundingGroup);

// Conversions between these types keep the bits.
using Floats = float __attribute__((vector_size(64)));
using Ints = std::int32_t __attribute__((vector_size(64)));
using Unsigneds = std::uint32_t __attribute__((vector_size(64)));

inline constexpr Ints kLaneOf = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Return a vector of equal numbers that the compiler keeps in a register: it would make each anew in every block.
template <class V, class T>
FO_INLINE V repeat(T value) {
    V vector = V{} + value;
    asm("" : "+v"(vector));
    return vector;
}

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

// The words of random bits of a group, and the bytes that groups share.
class RandomWords {
  public:
    RandomWords(const Words& key, std::uint32_t group) : group_(group) {
        for (int i = 0; i < 4; ++i) key_[i] = repeat<Unsigneds>(key.word[i]);
        key_[0] += Unsigneds(kLaneOf);
        for (int i = 0; i < 3; ++i) factors_[i] = repeat<Unsigneds>(kFactors[i]);
    }

    FO_INLINE Unsigneds of_group(std::uint32_t i) const {
        const std::uint32_t index = (group_ + i) * kWordsOfGroup;
        Unsigneds x = key_[0] + index;
        x = ((x ^ x >> 17) + key_[1]) * factors_[0];
        x = ((x ^ x >> 11) + key_[2]) * factors_[1];
        x = ((x ^ x >> 15) + key_[3]) * factors_[2];
        return x ^ x >> 14;
    }

    // Of 16 groups.
    FO_INLINE Unsigneds shared_bytes() const { return (key_[3] + (Unsigneds(kLaneOf) + group_) * 0x9e3779b9u) >> 24; }

  private:
    static constexpr std::uint32_t kFactors[] = {0xed5ad4bb, 0xac4c1b51, 0x31848bab};
    const std::uint32_t group_;
    Unsigneds key_[4], factors_[3];
};

// Return the words of the i-th 16 elements of a group: the byte of each at bit kByteAt.
template <int kByteAt, int i>
FO_INLINE Unsigneds bytes_at(Unsigneds words) {
    constexpr int kShift = kByteAt - 8 * i;
    return kShift < 0 ? words >> (-kShift & 31) : words << (kShift & 31);
}

FO_INLINE Ints larger(Ints a, Ints b) { return a > b ? a : b; }

// Return the largest lane of each of 16 vectors.
FO_INLINE Ints largest_lanes(const Ints* x) {
    Ints eight[8], four[4], two[2];
    const auto fold = [](Ints a, Ints b, Ints first, Ints second) {
        return larger(__builtin_shuffle(a, b, first), __builtin_shuffle(a, b, second));
    };
    // Lane l of a fold has the lanes 2l and 2l + 1 of both vectors.
    const Ints even = kLaneOf * 2, odd = even + 1;
    for (int i = 0; i < 8; ++i) eight[i] = fold(x[2 * i], x[2 * i + 1], even, odd);
    for (int i = 0; i < 4; ++i) four[i] = fold(eight[2 * i], eight[2 * i + 1], even, odd);
    for (int i = 0; i < 2; ++i) two[i] = fold(four[2 * i], four[2 * i + 1], even, odd);
    return fold(two[0], two[1], even, odd);
}

// Make bytes of four vectors of numbers, which are saturated: four of the first vector, four of the second, and so on.
template <bool kSigned>
FO_INLINE __m512i pack(const Ints (&x)[kVectors]) {
    const __m512i low = _mm512_packs_epi32(__m512i(x[0]), __m512i(x[1]));
    const __m512i high = _mm512_packs_epi32(__m512i(x[2]), __m512i(x[3]));
    return kSigned ? _mm512_packs_epi16(low, high) : _mm512_packus_epi16(low, high);
}

// Encodes blocks of one array, at most kMost at a time.
template <class Code>
class BlockEncoder {
    static constexpr bool kSigned = std::is_signed_v<typename Code::type>;
    using Random = CodeRandom<Code>;

  public:
    static constexpr int kMost = kLanes;

    // `group` is that of the first block.
    BlockEncoder(const Words& key, std::uint32_t group) : words_(key, group) {
        store_vector(Random::pattern_of_rest(words_.shared_bytes()), rests_);
    }

    // Encode blocks; return false, and write nothing, if an element is not finite.
    bool encode(const float* from, int blocks, void* to, float* scales, cpu::Ahead& ahead) {
        if (!measure(from, blocks, scales)) [[unlikely]]
            return false;
        auto* const bytes = static_cast<char*>(to);
        for (int block = 0; block < blocks; ++block) {
            ahead.fetch();
            encode_block(from + block * kCodeBlock, block, bytes + block * kCodeBlock);
        }
        return true;
    }

  private:
    // Compute the scale and the factor of each block.
    FO_INLINE bool measure(const float* from, int blocks, float* scales) {
        Ints partial[kMost];
        for (int block = 0; block < blocks; ++block, from += kCodeBlock) {
            Ints x[kVectors];
            for (int i = 0; i < kVectors; ++i) x[i] = load_vector<Ints>(from + i * kLanes) & magnitude_;
            partial[block] = larger(larger(x[0], x[1]), larger(x[2], x[3]));
        }
        for (int block = blocks; block < kMost; ++block) partial[block] = Ints{};
        const Ints largest = largest_lanes(partial);
        const __mmask16 infinite =
            _mm512_cmp_epi32_mask(__m512i(largest), _mm512_set1_epi32(0x7f800000), _MM_CMPINT_NLT);
        if (infinite) return false;
        const Ints least = larger(largest, Ints{} + bits<std::int32_t>(0x1p-110f));
        const __mmask16 some = _mm512_test_epi32_mask(__m512i(largest), __m512i(largest));
        const auto used = static_cast<__mmask16>((1u << blocks) - 1);
        _mm512_mask_storeu_epi32(scales, used, _mm512_maskz_mov_epi32(some, __m512i(least)));
        store_vector(2 * Code::kUnits / Floats(least), factors_);
        return true;
    }

    FO_INLINE void encode_block(const float* from, int block, void* to) {
        const Unsigneds words = words_.of_group(static_cast<std::uint32_t>(block));
        const float factor = factors_[block];
        const std::uint32_t rest = rests_[block];
        Ints magnitude[kVectors];
        const Ints codes[] = {encode_vector<0>(from, factor, words, rest, magnitude[0]),
                              encode_vector<1>(from, factor, words, rest, magnitude[1]),
                              encode_vector<2>(from, factor, words, rest, magnitude[2]),
                              encode_vector<3>(from, factor, words, rest, magnitude[3])};
        __m512i bytes = pack<kSigned>(codes);
        if constexpr (!kSigned)  // a positive number is never zero
            bytes = _mm512_max_epu8(bytes, _mm512_min_epu8(pack<false>(magnitude), __m512i(ones_)));
        store_vector(__builtin_shuffle(Ints(bytes), order_), to);
    }

    // Twice the units have half a pattern that is 2^-63 times the place, so that one exact product replaces the
    // addition of the bias.
    template <int i>
    FO_INLINE Ints encode_vector(const float* from, float factor, Unsigneds words, std::uint32_t rest,
                                 Ints& magnitude) const {
        const Ints x = load_vector<Ints>(from + i * kLanes);
        magnitude = x & magnitude_;
        const Floats units = Floats(magnitude) * factor + zero_;
        const Floats place = Floats(Ints(units) >> 1);
        const Floats random = Floats((bytes_at<Random::kByteAt, i>(words) & mask_) | rest);
        Floats above = Floats(_mm512_fmsub_ps(__m512(place), __m512(scale_), __m512(random)));
        if constexpr (kSigned) above = Floats((x & ~magnitude_) | Ints(above));
        return __builtin_convertvector(above, Ints);
    }

    const RandomWords words_;
    const Ints magnitude_ = repeat<Ints>(0x7fffffff), order_ = (kLaneOf & 3) * 4 + (kLaneOf >> 2);
    const Ints ones_ = repeat<Ints>(0x01010101);
    const Floats zero_ = repeat<Floats>(2 * Code::kUnitsOfFirst), scale_ = repeat<Floats>(0x1p63f);
    const Unsigneds mask_ = repeat<Unsigneds>(0xffu << Random::kByteAt);
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
        const Unsigneds words = words_.of_group(i);
        const std::uint32_t shared = shared_byte(key_, group_ + i);
        Unsigneds x[kVectors];
        for (int k = 0; k < kVectors; ++k) x[k] = load_vector<Unsigneds>(from + k * kLanes);
        const Ints first = larger(Ints(x[0]) & magnitude_, Ints(x[1]) & magnitude_);
        const Ints second = larger(Ints(x[2]) & magnitude_, Ints(x[3]) & magnitude_);
        if (_mm512_cmp_epi32_mask(__m512i(larger(first, second)), __m512i(largest_), _MM_CMPINT_NLE)) [[unlikely]]
            return false;
        x[0] += (bytes_at<8, 0>(words) & mask_) | shared;
        x[1] += (bytes_at<8, 1>(words) & mask_) | shared;
        x[2] += (bytes_at<8, 2>(words) & mask_) | shared;
        x[3] += (bytes_at<8, 3>(words) & mask_) | shared;
        store_vector(upper_halves(x[0], x[1]), to);
        store_vector(upper_halves(x[2], x[3]), static_cast<char*>(to) + sizeof(Ints));
        return true;
    }

  private:
    using Halves = std::uint16_t __attribute__((vector_size(64)));

    FO_INLINE Halves upper_halves(Unsigneds a, Unsigneds b) const {
        return __builtin_shuffle(Halves(a), Halves(b), order_);
    }

    static constexpr Halves kOdd = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                    33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    const RandomWords words_;
    const std::uint32_t group_;
    const Words& key_;
    const Halves order_ = kOdd;
    const Ints magnitude_ = repeat<Ints>(0x7fffffff), largest_ = repeat<Ints>(0x7f7f0000);
    const Unsigneds mask_ = repeat<Unsigneds>(0xff00u);
};

template <class Code>
FO_INLINE void decode_block(const void* from, float scale, float* to) {
    constexpr bool kSigned = std::is_signed_v<typename Code::type>;
    for (int i = 0; i < kVectors; ++i) {
        const __m128i codes = _mm_loadu_si128(static_cast<const __m128i*>(from) + i);
        const Ints k =
            Ints(kSigned ? _mm512_maskz_cvtepi8_epi32(kAll, codes) : _mm512_maskz_cvtepu8_epi32(kAll, codes));
        const Ints magnitude = kSigned ? larger(k, -k) : k;
        const Ints place = Ints(__builtin_convertvector(magnitude + Code::kZero, Floats));
        const Floats units = Floats((place - kHalfBias) << 1) - Code::kUnitsOfFirst;
        Floats share = units * Code::kInverse;
        if constexpr (kSigned) share = Floats(Ints(share) | (k & INT32_MIN));
        store_vector(share * scale, to + i * kLanes);
    }
}

}  // namespace fo::FO_TARGET

#endif
