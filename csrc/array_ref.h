// A dense array as the loops see it: a parameter, a gradient, a state array or an average.  Plain data.
#pragma once

#include "formats.h"

#include <cstdint>

namespace fo {

// Where the elements of an array are that do not lie as the parameter's: its axes in the parameter's order of memory,
// the outermost first.
struct Axes {
    static constexpr int kMost = 4;
    int count;
    std::int64_t length[kMost], stride[kMost];  // strides in bytes
};

struct ArrayRef {
    void* data;
    std::int64_t size;  // elements
    Format format;
    const Axes* axes = nullptr;  // null for a dense array; else it is only read, such as one number for each row
};

// The kinds of bits that a parameter of 16 bits lacks (extra_bits.h).  kBits8 and kBits16: the lower part of a wide
// pattern.  kCompensation: what rounding took away (Kahan summation), in the parameter's format.
enum class Extra : std::uint8_t { kNone, kBits8, kBits16, kCompensation };

struct ExtraRef {
    void* data;  // null for kNone
    Extra kind;
};

// How a state array is compressed.  kRounded: bfloat16, rounded at random.  The others: block_codes.h.
enum class Compression : std::uint8_t { kNone, kRounded, kSigned, kNonNegative };

// The compression of an array, which has the codes in the place of its elements.
struct CompressionRef {
    float* scales;  // of each block; null for kRounded
    Compression kind;
};

constexpr bool has_blocks(Compression kind) {
    return kind == Compression::kSigned || kind == Compression::kNonNegative;
}

// The bytes of an element, 0 for an array that is not compressed.
constexpr std::size_t code_size(Compression kind) {
    return kind == Compression::kNone ? 0 : kind == Compression::kRounded ? 2 : 1;
}

constexpr std::size_t item_size(Extra kind) { return kind == Extra::kBits8 ? 1 : 2; }

}  // namespace fo
