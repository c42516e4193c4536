// Codes of 8 bits for arrays of state, in blocks of 64 elements with one scale each: 8.5 bits per element.  Float32
// operations that are rounded once and integer ones, so that every instruction set and NumPy
// (python/fastoptim/block_codes.py is the twin) have the same bits.
//
// Main types: SignedCode and NonNegativeCode.  The scale is the largest magnitude of a block.  A magnitude has a place,
// which is nearly its square root plus an offset and linear between whole places; the code counts places from that of
// zero.  So steps are small near zero, and the largest code is exactly the scale.  An element between two codes gets
// either, each with the probability of its nearness: an average that moves by less than a step arrives nevertheless.
// Contains no loops, and no generator of random numbers.
#pragma once

#include "formats.h"

namespace fo {

inline constexpr std::int64_t kCodeBlock = 64;

}  // namespace fo

namespace fo::FO_TARGET {

// An approximate square root: it is exact for powers of four, and linear between these and twice these.  Its inverse is
// linear between powers of two and 1.5 times these.
inline constexpr std::int32_t kHalfBias = 0x1fc00000;  // half of the exponent of 1
FO_HD inline float to_place(float units) { return bits<float>((bits<std::int32_t>(units) >> 1) + kHalfBias); }
FO_HD inline float from_place(float place) {
    return bits<float>(std::int32_t(std::uint32_t(bits<std::int32_t>(place) - kHalfBias) << 1));
}

// kZero: the place of zero.  kUnitsOfZero and kUnitsOfLargest: from_place of the first and last place.
// 1/kUnits is rounded, but kUnits times it rounds to 1.
template <class Code, int kLargestCode, int kZeroPlace, int kUnitsOfZero, int kUnitsOfLargest>
struct BlockCode {
    using type = Code;
    static constexpr int kZero = kZeroPlace;
    static constexpr float kUnitsOfFirst = kUnitsOfZero;
    static constexpr float kUnits = kUnitsOfLargest - kUnitsOfZero, kInverse = 1 / kUnits;
    static_assert(kUnits * kInverse == 1);

    // Return the code of a finite x, for the factor of its block and a random number of the code.  The largest element
    // has the last place or, by rounding, the float before: random numbers are far enough from whole ones for both to
    // have the largest code.
    FO_HD static std::int32_t encode_finite(float x, float factor, float random) {
        return encode_place(x, x < 0, to_place(abs(x) * factor + kUnitsOfFirst), random);
    }

    // The same for any x.  An inf has the largest code of its sign, and a NaN, whose sign is nobody's, the largest.
    FO_HD static std::int32_t encode(float x, float factor, float random) {
        const float place = to_place(abs(x) * factor + kUnitsOfFirst), last = kZero + kLargestCode;
        return encode_place(x, x < 0, place < last ? place : last, random);
    }

    FO_HD static float decode(Code code, float scale) {
        const std::int32_t k = code, magnitude = k < 0 ? -k : k;
        const float share = (from_place(float(magnitude + kZero)) - kUnitsOfFirst) * kInverse;
        return bits<float>(bits<std::int32_t>(share) | (k & INT32_MIN)) * scale;
    }

  private:
    FO_HD static std::int32_t encode_place(float x, bool is_negative, float place, float random) {
        const float above_random = place - random;
        if constexpr (std::is_signed_v<Code>)
            return std::int32_t(bits<float>(bits<std::int32_t>(above_random) | (is_negative ? INT32_MIN : 0)));
        const auto code = std::int32_t(above_random);
        const std::int32_t least = std::int32_t((bits<std::int32_t>(x) & 0x7fffffff) != 0);
        return code > least ? code : least;  // a positive number is never zero
    }
};

using SignedCode = BlockCode<std::int8_t, 127, 88, 7168, 44544>;
using NonNegativeCode = BlockCode<std::uint8_t, 255, 2, 4, 66048>;

// The pattern of a magnitude, 0 for one that is not finite.
FO_HD inline std::int32_t finite_magnitude(float x) {
    const std::int32_t pattern = bits<std::int32_t>(x) & 0x7fffffff;
    return pattern < 0x7f800000 ? pattern : 0;
}

// Return the scale of a block from its largest finite magnitude: zero, or so large that the factor is finite.
FO_HD inline float block_scale(std::int32_t largest) {
    const float scale = bits<float>(largest);
    return largest == 0 ? 0.0f : at_least(scale, 0x1p-110f);
}

// For a block of zeros any finite number.
template <class Code>
FO_HD float block_factor(float scale) {
    return Code::kUnits / (scale == 0 ? 1.0f : scale);
}

// Random numbers for a code, from 16 random bits: the place before that of zero, plus 14 bits and half of the last one.
// The sums are exact, and made by patterns.
template <class Code>
struct CodeRandom {
    static constexpr int kByteAt = Code::kZero == 2 ? 15 : 9;  // the place of the first 8 bits in the pattern

    template <class Unsigned>  // of 32 bits, or a vector of these
    FO_HD static Unsigned pattern_of_rest(Unsigned rest) {
        const auto first = bits<std::uint32_t>(float(Code::kZero - 1));
        return first | rest >> 2 << (kByteAt - 6) | 1u << (kByteAt - 7);
    }
    FO_HD static float of(std::uint32_t random) {
        return bits<float>(pattern_of_rest(random & 0xff) | random >> 8 << kByteAt);
    }
};

}  // namespace fo::FO_TARGET
