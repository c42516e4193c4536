// How a number is kept in memory: load and store between a format and a compute type, each rounded once to
// nearest-even. Written with integers, so that every instruction set vectorises the same bits without instructions of
// its own.
#pragma once

#include "rule.h"

#include <cstring>

namespace fo {

// A new format needs an entry here and in kFormatNames, a struct with decode and encode, and a case in with_format.
enum class Format : std::uint8_t { kFloat64, kFloat32, kFloat16, kBfloat16 };

// The names that Python uses, in the order of Format.
inline constexpr std::array kFormatNames{"float64", "float32", "float16", "bfloat16"};

// The format in which a parameter of this format is computed.  State that is not compressed has it, too.
constexpr Format compute_format(Format format) {
    return format == Format::kFloat64 ? Format::kFloat64 : Format::kFloat32;
}

}  // namespace fo

namespace fo::FO_TARGET {

// A number in the caller's memory, which may start at any byte.  x86 loads it as fast from there; the compiler has to
// know.
#pragma pack(push, 1)
template <class T>
struct Cell {
    T value;
};
#pragma pack(pop)

template <class To, class From>
FO_HD To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// Narrow to float32 by rounding to odd: towards zero, with the last bit set if that was inexact.  A second rounding, to
// at least two bits less, then gives what a single rounding of x gives.
FO_HD inline float round_to_odd(double x) {
    const float narrow = float(x);
    const double magnitude = x < 0 ? -x : x, narrow_magnitude = narrow < 0 ? -double(narrow) : double(narrow);
    std::uint32_t pattern = bits<std::uint32_t>(narrow) - (narrow_magnitude > magnitude ? 1u : 0u);
    const bool is_inexact = narrow_magnitude != magnitude && x - x == 0;
    return bits<float>(pattern | (is_inexact ? 1u : 0u));
}

// One number format: the type in memory, and the conversions between it and a compute type.
struct Float64 {
    using type = double;
    template <class T>
    FO_HD static T decode(double x) {
        return T(x);
    }
    FO_HD static double encode(double x) { return x; }
};

struct Float32 {
    using type = float;
    template <class T>
    FO_HD static T decode(float x) {
        return T(x);
    }
    FO_HD static float encode(float x) { return x; }
};

struct Float16 {
    using type = std::uint16_t;

    // The half's exponent and fraction sit 13 places higher in a float, with a bias that is 112 smaller.  A subnormal
    // half gets the exponent of 2^-14, which is then subtracted: no subnormal float takes part.
    template <class T>
    FO_HD static T decode(std::uint16_t half) {
        const std::uint32_t magnitude = (half & 0x7fffu) << 13;
        const std::uint32_t subnormal = bits<std::uint32_t>(bits<float>(magnitude + (113u << 23)) - 0x1p-14f);
        const std::uint32_t finite = magnitude < 1u << 23 ? subnormal : magnitude + (112u << 23);
        const std::uint32_t special = magnitude | 0x7f800000u;
        const std::uint32_t result = magnitude >= 0x0f800000u ? special : finite;
        return T(bits<float>(result | (half & 0x8000u) << 16));
    }

    FO_HD static std::uint16_t encode(double x) { return encode(round_to_odd(x)); }

    FO_HD static std::uint16_t encode(float x) {
        const std::uint32_t sign = bits<std::uint32_t>(x) >> 16 & 0x8000u;
        const std::uint32_t magnitude = bits<std::uint32_t>(x) & 0x7fffffffu;
        // Rounds to nearest-even by carrying into the kept bits; a carry out of the fraction is the next exponent, and
        // out of the last exponent infinity.
        const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
        // Below 2^-14 the float adder rounds: the last place of 0.5 is a half's smallest subnormal.
        const std::uint32_t subnormal = bits<std::uint32_t>(bits<float>(magnitude) + 0.5f) - bits<std::uint32_t>(0.5f);
        std::uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
        half = magnitude >= 0x47800000u ? 0x7c00u : half;
        half = magnitude > 0x7f800000u ? 0x7e00u : half;
        return std::uint16_t(half | sign);
    }
};

struct Bfloat16 {
    using type = std::uint16_t;

    template <class T>
    FO_HD static T decode(std::uint16_t brain) {
        return T(bits<float>(std::uint32_t(brain) << 16));
    }

    FO_HD static std::uint16_t encode(double x) { return encode(round_to_odd(x)); }

    FO_HD static std::uint16_t encode(float x) {
        const std::uint32_t all = bits<std::uint32_t>(x);
        const std::uint32_t rounded = (all + 0x7fffu + (all >> 16 & 1u)) >> 16;
        const std::uint32_t quiet = all >> 16 | 0x40u;
        return std::uint16_t((all & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
    }
};

// The format of a compute type.
template <class T>
inline constexpr Format kComputeFormat = sizeof(T) == 8 ? Format::kFloat64 : Format::kFloat32;

// Calls f with the format's type: the one place where a format turns from a value into a type.
template <class F>
FO_HD auto with_format(Format format, F f) {
    switch (format) {
        case Format::kFloat64: return f(Float64{});
        case Format::kFloat32: return f(Float32{});
        case Format::kFloat16: return f(Float16{});
        case Format::kBfloat16: break;
    }
    return f(Bfloat16{});
}

FO_HD inline std::size_t item_size(Format format) {
    return with_format(format, [](auto kind) { return sizeof(typename decltype(kind)::type); });
}

// The address of element i of an array in the given format.
template <class Void>
Void* element(Void* data, Format format, std::int64_t i) {
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    return static_cast<Byte*>(data) + i * std::int64_t(item_size(format));
}

}  // namespace fo::FO_TARGET
