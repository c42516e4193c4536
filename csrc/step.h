// What crosses from the bindings to the loops: plain data.  Includes nothing of ours.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fo {

enum class Format : std::uint8_t { kFloat64, kFloat32, kFloat16, kBfloat16 };

inline constexpr int kMaxHyper = 16;
inline constexpr int kMaxState = 8;
inline constexpr int kMaxScalarState = 4;
inline constexpr int kMaxSums = 4;
inline constexpr std::size_t kRuleBytes = 192;

// What a pass does with an array's elements.  What is written was read before.
enum class Access : std::uint8_t { kNone, kRead, kWrite };

// One parameter array and its state.  Lasts as long as the optimizer.
struct Segment {
    void* p;
    void* state[kMaxState];
    double* scalar_state[kMaxScalarState];  // state that is one number for the whole array
    void* average;                          // of the parameter; null where none is kept
    std::int64_t size;                      // elements
    std::int32_t group;
    Format format;  // of p; state and average are float64 beside float64, else float32
};

// Its gradient in one step; data is null where there is none.  `constants` is an index into StepArgs::constants.
struct Gradient {
    const void* data;
    double clip;  // what the norms left of it; 1 until then
    std::int32_t constants;
    Format format;
};

// A rule with this step's numbers, once for each compute type, and what happens before and after it.
struct StepConstants {
    std::int32_t rule;
    bool skip_nonfinite;
    double grad_multiplier;  // g *= grad_multiplier: over the loss scale, and negative to maximize
    double clip_value, clip_norm, clip_global_norm;  // infinite where there is no bound
    double l1;
    double weight_decay;  // coupled: g += weight_decay*p
    double keep;          // decoupled: p *= keep
    double average_keep;  // average = average_keep*average + (1-average_keep)*p; 1 leaves it alone
    alignas(16) std::byte rule_f32[kRuleBytes];
    alignas(16) std::byte rule_f64[kRuleBytes];
};

// One step of a whole model.  Where a rule finalizes, its constants are each array's own.
struct StepArgs {
    const Segment* segments;
    Gradient* gradients;
    std::int64_t count;
    StepConstants* constants;
    std::int64_t constants_count;
};

}  // namespace fo
