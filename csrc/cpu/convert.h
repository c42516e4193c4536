// Conversion of blocks of numbers between the formats of 16 bits and float, with the instructions of AVX2 and F16C,
// or of AVX-512.  Equal to formats.h in every bit, except that a NaN may be another.  Other instruction sets have only
// the loops over formats.h.
#pragma once

#include "../formats.h"

#if defined(__AVX2__) && defined(__F16C__)
#include <immintrin.h>
#define FO_CONVERTS_BLOCKS
#endif

namespace fo::FO_TARGET {

#if defined(__AVX512F__)
inline constexpr int kBlock = 32;
#else
inline constexpr int kBlock = 16;
#endif

// Whether there are blocks in this compute type.
template <class T>
inline constexpr bool kConvertsBlocks = false;

#if defined(FO_CONVERTS_BLOCKS)

template <>
inline constexpr bool kConvertsBlocks<float> = true;

// All are always inlined: the compiler then keeps the block in registers.

#if defined(__AVX512F__)

// A block is two vectors, of which bfloat16 is one.
// GCC 12 warns of the intrinsics without a mask; this one is optimised away.
inline constexpr __mmask16 kAll = 0xffff;

// Positions of words in a vector of them.
struct WordIndices {
    alignas(64) std::uint16_t at[kBlock];
};

// The word that becomes the upper half of number i/2, in the lower or upper half of the words.
constexpr WordIndices upper_halves(int begin) {
    WordIndices indices{};
    for (int i = 0; i < kBlock; ++i) indices.at[i] = std::uint16_t(begin + i / 2);
    return indices;
}

inline constexpr WordIndices kFirstHalves = upper_halves(0), kSecondHalves = upper_halves(kBlock / 2);

// The upper halves of the numbers of two vectors.
inline constexpr WordIndices kOddWords = [] {
    WordIndices indices{};
    for (int i = 0; i < kBlock; ++i) indices.at[i] = std::uint16_t(2 * i + 1);
    return indices;
}();

[[gnu::always_inline]] inline __m512 widen(__m512i words, const WordIndices& halves) {
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, _mm512_load_si512(&halves), words));
}

[[gnu::always_inline]] inline __m512 from_float16(const void* from, int half) {
    return _mm512_maskz_cvtph_ps(kAll, _mm256_loadu_si256(static_cast<const __m256i*>(from) + half));
}

[[gnu::always_inline]] inline void load_block(Format format, const void* from, Cell<float>* block) {
    auto* const to = reinterpret_cast<float*>(block);
    if (format == Format::kFloat16) {
        _mm512_storeu_ps(to, from_float16(from, 0));
        _mm512_storeu_ps(to + 16, from_float16(from, 1));
    } else if (format == Format::kBfloat16) {
        const __m512i words = _mm512_loadu_si512(from);
        _mm512_storeu_ps(to, widen(words, kFirstHalves));
        _mm512_storeu_ps(to + 16, widen(words, kSecondHalves));
    } else {
        const auto* const floats = static_cast<const float*>(from);
        _mm512_storeu_ps(to, _mm512_loadu_ps(floats));
        _mm512_storeu_ps(to + 16, _mm512_loadu_ps(floats + 16));
    }
}

// In the upper halves x rounded to nearest-even, by a carry into them; wrong for some NaNs.
[[gnu::always_inline]] inline __m512i round_to_bfloat16(__m512 x) {
    const __m512i all = _mm512_castps_si512(x);
    const __mmask16 is_odd = _mm512_test_epi32_mask(all, _mm512_set1_epi32(1 << 16));
    const __m512i carried = _mm512_add_epi32(all, _mm512_set1_epi32(0x7fff));
    return _mm512_mask_add_epi32(carried, is_odd, carried, _mm512_set1_epi32(1));
}

// `rounded`, but the NaNs of x with their upper halves.
[[gnu::always_inline]] inline __m512i keep_nans(__m512i rounded, __m512 x) {
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, is_nan, _mm512_castps_si512(x), _mm512_set1_epi32(0x40 << 16));
}

[[gnu::always_inline]] inline void store_bfloat16(const float* from, void* to) {
    const __m512 first = _mm512_loadu_ps(from), second = _mm512_loadu_ps(from + 16);
    __m512i low = round_to_bfloat16(first), high = round_to_bfloat16(second);
    if (_mm512_cmp_ps_mask(first, second, _CMP_UNORD_Q) != 0) [[unlikely]] {
        low = keep_nans(low, first);
        high = keep_nans(high, second);
    }
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16(low, _mm512_load_si512(&kOddWords), high));
}

[[gnu::always_inline]] inline void store_block(Format format, const Cell<float>* block, void* to) {
    const auto* const from = reinterpret_cast<const float*>(block);
    if (format == Format::kFloat16) {
        for (int i = 0; i < kBlock; i += 16)
            _mm256_storeu_si256(static_cast<__m256i*>(to) + i / 16,
                                _mm512_maskz_cvtps_ph(kAll, _mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    } else if (format == Format::kBfloat16) {
        store_bfloat16(from, to);
    } else {
        auto* const floats = static_cast<float*>(to);
        _mm512_storeu_ps(floats, _mm512_loadu_ps(from));
        _mm512_storeu_ps(floats + 16, _mm512_loadu_ps(from + 16));
    }
}

#else

// For blocks with a NaN.
inline void encode_bfloat16_block(const float* from, void* to) {
    auto* const each = static_cast<Cell<std::uint16_t>*>(to);
    for (int i = 0; i < kBlock; ++i) each[i].value = Bfloat16::encode(from[i]);
}

inline __m256i widen(const void* from, int half) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from) + half));
}

[[gnu::always_inline]] inline void load_block(Format format, const void* from, Cell<float>* block) {
    auto* const to = reinterpret_cast<float*>(block);
    if (format == Format::kFloat16) {
        const auto* const halves = static_cast<const __m128i*>(from);
        _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(halves)));
        _mm256_storeu_ps(to + 8, _mm256_cvtph_ps(_mm_loadu_si128(halves + 1)));
    } else if (format == Format::kBfloat16) {
        _mm256_storeu_ps(to, _mm256_castsi256_ps(_mm256_slli_epi32(widen(from, 0), 16)));
        _mm256_storeu_ps(to + 8, _mm256_castsi256_ps(_mm256_slli_epi32(widen(from, 1), 16)));
    } else {
        const auto* const floats = static_cast<const float*>(from);
        _mm256_storeu_ps(to, _mm256_loadu_ps(floats));
        _mm256_storeu_ps(to + 8, _mm256_loadu_ps(floats + 8));
    }
}

// The upper halves after rounding to nearest-even, which carries into them; wrong for some NaNs.
inline __m256i round_to_bfloat16(__m256 x) {
    const __m256i all = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(all, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(all, odd), _mm256_set1_epi32(0x7fff)), 16);
}

[[gnu::always_inline]] inline void store_bfloat16(const float* from, void* to) {
    const __m256 first = _mm256_loadu_ps(from), second = _mm256_loadu_ps(from + 8);
    if (_mm256_movemask_ps(_mm256_cmp_ps(first, second, _CMP_UNORD_Q)) != 0) [[unlikely]]
        return encode_bfloat16_block(from, to);
    const __m256i packed = _mm256_packus_epi32(round_to_bfloat16(first), round_to_bfloat16(second));
    _mm256_storeu_si256(static_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
}

[[gnu::always_inline]] inline void store_block(Format format, const Cell<float>* block, void* to) {
    const auto* const from = reinterpret_cast<const float*>(block);
    if (format == Format::kFloat16) {
        auto* const halves = static_cast<__m128i*>(to);
        _mm_storeu_si128(halves, _mm256_cvtps_ph(_mm256_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT));
        _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(_mm256_loadu_ps(from + 8), _MM_FROUND_TO_NEAREST_INT));
    } else if (format == Format::kBfloat16) {
        store_bfloat16(from, to);
    } else {
        auto* const floats = static_cast<float*>(to);
        _mm256_storeu_ps(floats, _mm256_loadu_ps(from));
        _mm256_storeu_ps(floats + 8, _mm256_loadu_ps(from + 8));
    }
}

#endif

#endif

// Call convert(i) for each whole block from `begin` on, and return where they end; if there are no blocks, `begin`.
// Without blocks a `convert` with a parameter of type auto is not compiled.
template <class T, class ConvertBlock>
std::int64_t in_blocks(std::int64_t begin, [[maybe_unused]] std::int64_t end,
                       [[maybe_unused]] const ConvertBlock& convert) {
    if constexpr (kConvertsBlocks<T>)
        for (; begin + kBlock <= end; begin += kBlock) convert(begin);
    return begin;
}

// Whether blocks of that format can be converted to this compute type.
template <class T>
constexpr bool converts_blocks(Format format) {
    return kConvertsBlocks<T> && format != Format::kFloat64;
}

}  // namespace fo::FO_TARGET
