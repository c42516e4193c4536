// Codes of 8 bits for arrays of state, in blocks of 64 elements with one scale each: 8.5 bits per element.  Float32
// operations that are rounded once, so that every instruction set and NumPy (python/fastoptim/block_codes.py is the
// twin) have the same bits.
//
// Main types: SignedCode and NonNegativeCode.  The scale is the largest magnitude of a block, and code k means
// k*(k + linear) / (largest*(largest + linear)) of it: steps are small near zero, and the largest code is exactly the
// scale.  An element between two of these numbers gets either, each with the probability of its nearness: an average
// that moves by less than a step arrives nevertheless.  Contains no loops, and no generator of random numbers.
#pragma once

#include "formats.h"

namespace fo {

inline constexpr std::int64_t kCodeBlock = 64;

}  // namespace fo

namespace fo::FO_TARGET {

// The pattern of a magnitude, 0 for one that is not finite: such elements are stored as zeros.
FO_HD inline std::int32_t finite_magnitude(float x) {
    const std::int32_t pattern = bits<std::int32_t>(x) & 0x7fffffff;
    return pattern < 0x7f800000 ? pattern : 0;
}

// 1/kUnits is rounded, but kUnits times it rounds to 1.  kAbove exceeds kUnits by more than three roundings, so that
// the largest element of a block always has the largest code.
template <class Code, int kLargestCode, int kLinearTerm>
struct BlockCode {
    using type = Code;
    static constexpr bool kSigned = std::is_signed_v<Code>;
    static constexpr std::int32_t kLargest = kLargestCode;
    static constexpr float kLinear = kLinearTerm, kHalf = kLinear / 2;
    static constexpr float kUnits = kLargest * (kLargest + kLinear), kInverse = 1 / kUnits;
    static constexpr float kAbove = kUnits + kUnits * 0x1p-21f;
    static_assert(kUnits * kInverse == 1);

    // Return the code of x, for the inverse scale of its block and a random number of [0, 1).
    FO_HD static std::int32_t encode(float x, float inverse_scale, float random) {
        const std::int32_t magnitude = finite_magnitude(x);
        const float units = bits<float>(magnitude) * inverse_scale * kAbove;
        const auto whole = std::int32_t(sqrt(units + kHalf * kHalf) - kHalf);
        const std::int32_t lower = whole < kLargest - 1 ? whole : kLargest - 1;
        const float k = float(lower);
        const float threshold = k * (k + kLinear) + random * (k + k + (kLinear + 1));
        const std::int32_t code = lower + std::int32_t(units >= threshold);
        if constexpr (kSigned) return x < 0 ? -code : code;
        const std::int32_t least = std::int32_t(magnitude > 0);  // a positive number is never zero
        return code > least ? code : least;
    }

    FO_HD static float decode(Code code, float scale) {
        const float k = float(std::int32_t(code));
        return k * (abs(k) + kLinear) * kInverse * scale;
    }
};

using SignedCode = BlockCode<std::int8_t, 127, 128>;
using NonNegativeCode = BlockCode<std::uint8_t, 255, 2>;

// Return the scale of a block from its largest finite magnitude: normal, or zero.
FO_HD inline float block_scale(std::int32_t largest) {
    const std::int32_t normal = largest < 0x00800000 ? 0x00800000 : largest;
    return bits<float>(largest == 0 ? 0 : normal);
}

// For a block of zeros any finite number.
FO_HD inline float inverse_block_scale(float scale) { return 1 / (scale == 0 ? 1.0f : scale); }

// A random number of 16 bits for `encode`, in the middle of its interval.
FO_HD inline float random_share(std::uint32_t half) { return (float(std::int32_t(half)) + 0.5f) * 0x1p-16f; }

}  // namespace fo::FO_TARGET
