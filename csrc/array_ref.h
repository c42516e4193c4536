// A dense array as the loops see it: a parameter, a gradient, a state array or an average.  Plain data.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fo {

enum class Format : std::uint8_t { kFloat64, kFloat32, kFloat16, kBfloat16 };

// The format in which a parameter of this format is computed.  State that is not compressed has it, too.
constexpr Format compute_format(Format format) {
    return format == Format::kFloat64 ? Format::kFloat64 : Format::kFloat32;
}

struct ArrayRef {
    void* data;
    std::int64_t size;  // elements
    Format format;
};

}  // namespace fo
