// What crosses from the bindings to the loops: plain data.  Includes nothing of ours.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fo {

enum class Format : std::uint8_t { kFloat64, kFloat32, kFloat16, kBfloat16 };

inline constexpr int kMaxState = 8;
inline constexpr std::size_t kRuleBytes = 128;

// One parameter array and its state.  Lasts as long as the optimizer.
struct Segment {
    void* p;
    void* state[kMaxState];
    std::int64_t size;  // elements
    Format format;      // of p; the state is float64 beside float64, else float32
};

// Its gradient in one step; data is null where there is none.  `scalars` is an index into Call::scalars.
struct Gradient {
    const void* data;
    std::int32_t scalars;
    Format format;
};

// A rule with this step's numbers, once for each compute type, and what happens before it.
struct Scalars {
    std::int32_t rule;
    bool maximize;
    double weight_decay;  // coupled: g += weight_decay*p
    double keep;          // decoupled: p *= keep
    alignas(16) std::byte rule_f32[kRuleBytes];
    alignas(16) std::byte rule_f64[kRuleBytes];
};

// One step of a whole model.
struct Call {
    const Segment* segments;
    const Gradient* gradients;
    std::int64_t count;
    const Scalars* scalars;
};

}  // namespace fo
