// Parameters of 16 bits with the bits that they lack, which state keeps, and rounding by random numbers.  Integer
// arithmetic on patterns, so that every instruction set and NumPy (python/fastoptim/extra_bits.py is the twin) have the
// same bits.
//
// Main type: Wide<Kind, k>, a format of 16 bits with k more bits of fraction.  The upper
// bits of a wide pattern, rounded to nearest, are the parameter, and the rest of it is a signed integer of k bits.  For
// bfloat16 and k = 16 the wide format is float32 itself.  Functions take and return patterns without a sign: rounding a
// number never changes its sign.
#pragma once

#include "array_ref.h"
#include "random_bits.h"

namespace fo::FO_TARGET {

// kHalfGap: half the distance between a number and the next one, at most, relative to the number.
template <class Kind>
struct Narrow;
template <>
struct Narrow<Float16> {
    static constexpr Format kFormat = Format::kFloat16;
    static constexpr std::int32_t kInfinity = 0x7c00, kNan = 0x7e00;
    static constexpr float kHalfGap = 0x1p-11f;
};
template <>
struct Narrow<Bfloat16> {
    static constexpr Format kFormat = Format::kBfloat16;
    static constexpr std::int32_t kInfinity = 0x7f80, kNan = 0x7fc0;
    static constexpr float kHalfGap = 0x1p-8f;
};

// Drop the last bits of a pattern by rounding to nearest-even, or append zeros.
template <int kDropped>
FO_HD std::int32_t shorten(std::int32_t pattern) {
    if constexpr (kDropped <= 0)
        return pattern << -kDropped;
    else
        return (pattern + (1 << (kDropped - 1)) - 1 + (pattern >> kDropped & 1)) >> kDropped;
}

template <int kAppended>
FO_HD std::int32_t lengthen(std::int32_t pattern) {
    if constexpr (kAppended >= 0)
        return pattern << kAppended;
    else
        return pattern >> -kAppended;
}

// Conversions from and to float32, for numbers that are not NaN.
template <class Kind, int k>
struct Wide;

template <int k>
struct Wide<Bfloat16, k> {
    FO_HD static std::int32_t encode(std::int32_t magnitude) { return shorten<16 - k>(magnitude); }
    FO_HD static std::int32_t decode(std::int32_t wide) { return lengthen<16 - k>(wide); }
};

// Subnormal numbers are multiples of 2^-(24 + k).
template <int k>
struct Wide<Float16, k> {
    static constexpr float kScale = k == 8 ? 0x1p32f : 0x1p40f, kUnit = k == 8 ? 0x1p-32f : 0x1p-40f;
    static constexpr std::int32_t kBias = 112 << 23;

    FO_HD static std::int32_t encode(std::int32_t magnitude) {
        // The float adder rounds; from 2^23 on a float is a whole number.
        const bool is_subnormal = magnitude < 0x38800000;
        const float scaled = bits<float>(is_subnormal ? magnitude : 0) * kScale;
        const float whole = scaled < 0x1p23f ? (scaled + 0x1p23f) - 0x1p23f : scaled;
        const std::int32_t finite = is_subnormal ? std::int32_t(whole) : shorten<13 - k>(magnitude - kBias);
        return magnitude >= 0x47800000 ? 0x7c00 << k : finite;
    }

    FO_HD static std::int32_t decode(std::int32_t wide) {
        // Selected by a mask: GCC does not vectorize a conversion from integers in a branch.
        const auto subnormal = bits<std::int32_t>(float(wide) * kUnit);
        const std::int32_t normal = lengthen<13 - k>(wide) + kBias, mask = -std::int32_t(wide < 1 << (10 + k));
        const std::int32_t finite = (subnormal & mask) | (normal & ~mask);
        const std::int32_t special = wide > 0x7c00 << k ? 0x7fc00000 : 0x7f800000;
        return wide >= 0x7c00 << k ? special : finite;
    }
};

template <class Kind, int k>
FO_HD std::int32_t to_wide(float x) {
    const std::int32_t magnitude = bits<std::int32_t>(x) & 0x7fffffff;
    return magnitude > 0x7f800000 ? Narrow<Kind>::kNan << k : Wide<Kind, k>::encode(magnitude);
}

FO_HD inline std::int32_t sign_of(float x) { return bits<std::int32_t>(x) >> 16 & 0x8000; }

// A parameter and its bits.  Each kind of pair has the type of the bits and both conversions.
template <class Low>
struct Pair {
    std::uint16_t narrow;
    Low low;
};

template <class Kind, class Low, int k>
struct SplitPair {
    using low_type = Low;

    FO_HD static Pair<Low> encode(float x) {
        const std::int32_t wide = to_wide<Kind, k>(x);
        const std::int32_t upper = (wide + (1 << (k - 1))) >> k;
        return {std::uint16_t(upper | sign_of(x)), Low(wide - (upper << k))};
    }

    // A parameter that was assigned keeps the bits of another number.  They stay within half a gap of it: they neither
    // change its sign nor make an infinity anything else.
    FO_HD static float decode(std::uint16_t narrow, Low low) {
        const std::int32_t upper = narrow & 0x7fff, pattern = (upper << k) + low;
        const std::int32_t wide = pattern < 0 ? 0 : pattern;
        const std::int32_t ceiling = upper > Narrow<Kind>::kInfinity ? INT32_MAX : Narrow<Kind>::kInfinity << k;
        const std::int32_t magnitude = Wide<Kind, k>::decode(wide < ceiling ? wide : ceiling);
        return bits<float>(std::uint32_t(magnitude) | std::uint32_t(narrow & 0x8000) << 16);
    }
};

// Call f with the type of a format of 16 bits.
template <class F>
FO_HD void with_narrow(Format format, F f) {
    format == Format::kFloat16 ? f(Float16{}) : f(Bfloat16{});
}

// Call f with the type of a parameter's pair, kBits8 or kBits16.
template <class F>
FO_HD void with_pair(Format format, Extra kind, F f) {
    with_narrow(format, [&](auto narrow) {
        using Kind = decltype(narrow);
        kind == Extra::kBits8 ? f(SplitPair<Kind, std::int8_t, 8>{}) : f(SplitPair<Kind, std::int16_t, 16>{});
    });
}

// A compensated parameter, with both parts rounded: the larger one and its rest.  Of a parameter that was assigned, a
// rest of more than half a gap is that of another number.
FO_HD inline float add_rest(float rounded, float rest, float half_gap) {
    return rest != 0 && abs(rest) <= abs(rounded) * half_gap ? rounded + rest : rounded;
}

FO_HD inline float rest_of(float x, float rounded) { return rounded - rounded == 0 ? x - rounded : 0.0f; }

// Round to one of both neighbours, each with the probability of its nearness, by 16 random bits.  Beyond the largest
// number, round to nearest.
template <class Kind>
FO_HD std::uint16_t round_randomly(float x, std::uint16_t random) {
    const std::int32_t wide = to_wide<Kind, 16>(x), largest = (Narrow<Kind>::kInfinity - 1) << 16;
    return std::uint16_t((wide + (wide > largest ? 0x8000 : std::int32_t(random))) >> 16 | sign_of(x));
}

// For bfloat16 the wide pattern is that of float32 with its sign.
template <>
FO_HD inline std::uint16_t round_randomly<Bfloat16>(float x, std::uint16_t random) {
    const auto pattern = bits<std::uint32_t>(x);
    const auto magnitude = std::int32_t(pattern & 0x7fffffff);
    const std::uint32_t added = magnitude > 0x7f7f0000 ? 0x8000u : random;
    const std::uint32_t nan = (pattern >> 16 & 0x8000u) | 0x7fc0u;
    return std::uint16_t(magnitude > 0x7f800000 ? nan : (pattern + added) >> 16);
}

// Random bits for rounding.  Element e has byte e/16 % 4 of word 16*(e/64) + e%16, so that vectors of up to 16 words
// need no shuffles, followed by a byte that its group of 64 elements shares.  So each element has 16 uniform bits, and
// those that decide nearly always are independent.
inline constexpr std::uint64_t kRoundingGroup = 64;
inline constexpr int kWordsOfGroup = 16;

// A word is a hash of its index, in which four words of Philox for each (seed, parameter, step) are the key.  Philox
// for each word would take ten times as long.  The hash is triple32 of Wellons (hash-prospector, 2018) with the key
// added before its multiplications.
FO_HD inline std::uint32_t rounding_word(const Words& key, std::uint32_t index) {
    std::uint32_t x = index + key.word[0];
    x = ((x ^ x >> 17) + key.word[1]) * 0xed5ad4bbu;
    x = ((x ^ x >> 11) + key.word[2]) * 0xac4c1b51u;
    x = ((x ^ x >> 15) + key.word[3]) * 0x31848babu;
    return x ^ x >> 14;
}

// The byte of a group: multiples of the golden ratio, which are evenly distributed, from a random start.
FO_HD inline std::uint32_t shared_byte(const Words& key, std::uint32_t group) {
    return (key.word[3] + group * 0x9e3779b9u) >> 24;
}

// Return the 16 bits of an element; the key is that of its 2^34 elements.
FO_HD inline std::uint32_t rounding_bits(const Words& key, std::uint64_t element) {
    const auto group = std::uint32_t(element / kRoundingGroup);
    const std::uint32_t word = rounding_word(key, group * kWordsOfGroup + std::uint32_t(element % kWordsOfGroup));
    return (word >> (element / kWordsOfGroup % 4 * 8) & 0xff) << 8 | shared_byte(key, group);
}

// Return that key.
FO_HD inline Words rounding_key(const RandomKey& key, std::uint64_t element) {
    return random_words(key, element >> 34);
}

}  // namespace fo::FO_TARGET
