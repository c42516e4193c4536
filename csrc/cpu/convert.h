// Conversion of blocks of numbers between the formats of 16 bits and float, with the instructions of AVX2 and F16C,
// or of AVX-512.  Equal to formats.h in every bit, except that a NaN may be another.  Other instruction sets have only
// the loops over formats.h.
#pragma once

#include "../formats.h"
#include "vectorize.h"

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

// All are always inlined: the compiler then keeps the block in registers.  A block is two vectors of floats, the halves
// 0 and 1, and with bfloat16 one vector.

#if defined(__AVX512F__)

using WordVector = __m512i;

// GCC 12 warns of the intrinsics without a mask; this one is optimised away.
inline constexpr __mmask16 kAll = 0xffff;

// Positions of words in a vector of them.
struct WordIndices {
    alignas(64) std::uint16_t at[kBlock];
};

// Of the words that become the upper halves of the numbers: the i-th is that of number i/2.
constexpr WordIndices widening_indices(int begin) {
    WordIndices indices{};
    for (int i = 0; i < kBlock; ++i) indices.at[i] = std::uint16_t(begin + i / 2);
    return indices;
}

inline constexpr WordIndices kWidening[] = {widening_indices(0), widening_indices(kBlock / 2)};

inline constexpr WordIndices kOddWords = [] {
    WordIndices indices{};
    for (int i = 0; i < kBlock; ++i) indices.at[i] = std::uint16_t(2 * i + 1);
    return indices;
}();

FO_INLINE __m512 load_floats(const float* from) { return _mm512_loadu_ps(from); }

FO_INLINE void store_floats(__m512 x, float* to) { _mm512_storeu_ps(to, x); }

FO_INLINE __m512 from_float16(const void* from, int half) {
    return _mm512_maskz_cvtph_ps(kAll, _mm256_loadu_si256(static_cast<const __m256i*>(from) + half));
}

FO_INLINE void to_float16(__m512 x, void* to, int half) {
    _mm256_storeu_si256(static_cast<__m256i*>(to) + half, _mm512_maskz_cvtps_ph(kAll, x, _MM_FROUND_TO_NEAREST_INT));
}

FO_INLINE __m512 from_bfloat16(const void* from, int half) {
    const __m512i words = _mm512_loadu_si512(from), indices = _mm512_load_si512(kWidening + half);
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, indices, words));
}

FO_INLINE bool any_nan(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0; }

// In the upper halves x rounded to nearest-even, by a carry into them; wrong for some NaNs.
FO_INLINE __m512i round_to_bfloat16(__m512 x) {
    const __m512i all = _mm512_castps_si512(x);
    const __mmask16 is_odd = _mm512_test_epi32_mask(all, _mm512_set1_epi32(1 << 16));
    const __m512i carried = _mm512_add_epi32(all, _mm512_set1_epi32(0x7fff));
    return _mm512_mask_add_epi32(carried, is_odd, carried, _mm512_set1_epi32(1));
}

// `rounded`, but the NaNs of x with their upper halves.
FO_INLINE __m512i keep_nans(__m512i rounded, __m512 x) {
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, is_nan, _mm512_castps_si512(x), _mm512_set1_epi32(0x40 << 16));
}

// Return the upper 16 bits of each number of both vectors.
FO_INLINE __m512i upper_halves(__m512i a, __m512i b) {
    return _mm512_permutex2var_epi16(a, _mm512_load_si512(&kOddWords), b);
}

FO_INLINE void store_words(__m512i words, void* to) { _mm512_storeu_si512(to, words); }

#else

using WordVector = __m256i;

FO_INLINE __m256 load_floats(const float* from) { return _mm256_loadu_ps(from); }

FO_INLINE void store_floats(__m256 x, float* to) { _mm256_storeu_ps(to, x); }

FO_INLINE __m256 from_float16(const void* from, int half) {
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(from) + half));
}

FO_INLINE void to_float16(__m256 x, void* to, int half) {
    _mm_storeu_si128(static_cast<__m128i*>(to) + half, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

FO_INLINE __m256 from_bfloat16(const void* from, int half) {
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from) + half));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

FO_INLINE bool any_nan(__m256 a, __m256 b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0; }

// In the upper halves x rounded to nearest-even, by a carry into them; wrong for some NaNs.
FO_INLINE __m256i round_to_bfloat16(__m256 x) {
    const __m256i all = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(all, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(all, odd), _mm256_set1_epi32(0x7fff));
}

// `rounded`, but the NaNs of x with their upper halves.
FO_INLINE __m256i keep_nans(__m256i rounded, __m256 x) {
    const __m256 quiet = _mm256_or_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x40 << 16)));
    const __m256 is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), quiet, is_nan));
}

// Return the upper 16 bits of each number of both vectors.
FO_INLINE __m256i upper_halves(__m256i a, __m256i b) {
    const __m256i halves = _mm256_packus_epi32(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16));
    return _mm256_permute4x64_epi64(halves, 0xd8);
}

FO_INLINE void store_words(__m256i words, void* to) { _mm256_storeu_si256(static_cast<__m256i*>(to), words); }

#endif

inline constexpr int kHalfBlock = kBlock / 2;

FO_INLINE void load_block(Format format, const void* from, Cell<float>* block) {
    for (int half = 0; half < 2; ++half) {
        auto* const to = reinterpret_cast<float*>(block) + half * kHalfBlock;
        if (format == Format::kFloat16)
            store_floats(from_float16(from, half), to);
        else if (format == Format::kBfloat16)
            store_floats(from_bfloat16(from, half), to);
        else
            store_floats(load_floats(static_cast<const float*>(from) + half * kHalfBlock), to);
    }
}

FO_INLINE void store_bfloat16(const float* from, void* to) {
    const auto first = load_floats(from), second = load_floats(from + kHalfBlock);
    auto low = round_to_bfloat16(first), high = round_to_bfloat16(second);
    if (any_nan(first, second)) [[unlikely]] {
        low = keep_nans(low, first);
        high = keep_nans(high, second);
    }
    store_words(upper_halves(low, high), to);
}

FO_INLINE void store_block(Format format, const Cell<float>* block, void* to) {
    const auto* const from = reinterpret_cast<const float*>(block);
    if (format == Format::kBfloat16) return store_bfloat16(from, to);
    for (int half = 0; half < 2; ++half) {
        const auto x = load_floats(from + half * kHalfBlock);
        if (format == Format::kFloat16)
            to_float16(x, to, half);
        else
            store_floats(x, static_cast<float*>(to) + half * kHalfBlock);
    }
}

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
