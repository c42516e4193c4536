// One step of a model as plain data: what crosses from the bindings to the devices.
#pragma once

#include "array_ref.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fo {

inline constexpr int kMaxHyper = 16;
inline constexpr int kMaxState = 8;
inline constexpr int kMaxScalarState = 4;
inline constexpr int kMaxSums = 4;
inline constexpr std::size_t kRuleBytes = 192;

// Every how many steps subnormal numbers are flushed.  Once a step would cost Adam a third more time in cache.
inline constexpr int kFlushInterval = 64;

// How a pass uses an array's elements.  An element that is written was read before.
enum class Access : std::uint8_t { kNone, kRead, kWrite };

// The norm that clip_norm and clip_global_norm bound: the square root of the sum of squares, the sum of absolute
// values, or the largest absolute value.
enum class NormType : std::uint8_t { kTwo, kOne, kInfinity };

// The order in memory of an array that is not in C order: of each axis its length and its stride in elements.
struct AxisOrder {
    std::vector<std::int64_t> lengths, strides;

    // Return where the element is that has this place in C order.
    std::int64_t place(std::int64_t in_c_order) const {
        std::int64_t at = 0;
        for (std::size_t axis = lengths.size(); axis-- > 0; in_c_order /= lengths[axis])
            at += in_c_order % lengths[axis] * strides[axis];
        return at;
    }
};

// The rows of a parameter: the indices of its first axis.
struct RowShape {
    std::int64_t count, size;  // rows; elements of one
    std::int64_t stride;       // elements between the first ones of neighbouring rows
    const AxisOrder* order;    // null in C order
};

// A part of a parameter with its state.  A parameter may consist of several segments, which follow one another: sums
// run over all of them, and scalar state belongs to the parameter.
struct Segment {
    ArrayRef p;
    ArrayRef average;                   // of the parameter; data is null where none is kept
    ArrayRef copy;                      // of the parameter, in a format of 16 bits; data is null where there is none
    ExtraRef extra;                     // bits that a parameter of 16 bits lacks
    const ArrayRef* state;              // the rule's arrays, in its order
    const CompressionRef* compression;  // of each of these arrays; null where none is compressed
    double* const* scalar_state;        // state that is one number for the whole parameter
    std::int32_t param;                 // counts up from 0
    std::uint32_t random_param;         // the parameter's index in its optimizer
    std::int64_t first_element;         // the segment's first one, counted in the parameter
    RowShape rows;
};

// The rows of a parameter that a step updates, in ascending order.  Their elements are counted as in a dense array of
// these rows alone.
struct Rows {
    std::int64_t count, row_size;   // rows; elements of one
    const std::int64_t* index;      // of each row in the parameter
    const std::int64_t* positions;  // of the gradient's rows, in the order of the rows above; null if it is the same
    const std::int64_t* begins;  // where the positions of each row begin, whose gradients are added; null if each has
                                 // one position
    const std::int32_t* constants;  // of each row, an index into StepArgs::constants; null if they are the gradient's

    std::int64_t size() const { return count * row_size; }
};

// The gradient of a segment in one step; data is null where there is none.
struct Gradient {
    const void* data;
    double clip;             // the factor that the bounds on norms make necessary; 1, or a scale of squares, before
    std::int32_t constants;  // an index into StepArgs::constants
    Format format;
    const Axes* axes = nullptr;  // null where its elements lie as the parameter's, as always on a GPU
    const Rows* rows = nullptr;  // null for all rows of the segment
    double step_scale = 1;       // of a cautious step's elements, from the share of those that agree
    // Of rules with a number for each row: the factors of all rows of the step, in the compute type, and the place of
    // the segment's first element among these rows' elements.
    const void* row_factors = nullptr;
    std::int64_t row_offset = 0;
};

// A rule with the constants of one step, once in each compute type, and what is done before and after it (prepare.h).
struct StepConstants {
    std::int32_t rule;
    bool skip_nonfinite;
    double grad_multiplier;                          // the inverse loss scale, negative to maximize
    double clip_value, clip_norm, clip_global_norm;  // infinite where there is no bound
    double clip_eps;                                 // added to a norm that a bound is divided by
    NormType norm_type;
    double l1;
    double weight_decay;    // coupled: g += weight_decay*p
    double decay;           // decoupled: p -= decay*p
    double cautious_decay;  // the same where it agrees with the rule's step
    bool cautious;          // the rule's step is taken where it agrees with the gradient
    double low, high;       // of the new parameter; infinite where there is no bound
    bool flushes;           // subnormal numbers in state and average, after the update
    double average_weight;  // average += average_weight*(p - average); 0 leaves it alone
    bool rounds_randomly;   // parameters of 16 bits
    std::uint64_t seed, t;  // of the random numbers
    alignas(16) std::byte rule_f32[kRuleBytes];
    alignas(16) std::byte rule_f64[kRuleBytes];

    bool masks() const { return cautious || cautious_decay != 0; }
    bool bounds_parameter() const { return low > -INFINITY || high < INFINITY; }
    bool bounds_norms() const { return clip_norm < INFINITY || clip_global_norm < INFINITY; }
};

// Whether the parameter is not stored as an array of its format.
inline bool stores_specially(const Segment& segment, const StepConstants& constants) {
    const bool is_narrow = segment.p.format == Format::kFloat16 || segment.p.format == Format::kBfloat16;
    return segment.extra.kind != Extra::kNone || (is_narrow && constants.rounds_randomly);
}

// Whether an update needs float32 copies of the parameter or of state.
inline bool needs_staging(const Segment& segment, const StepConstants& constants) {
    return segment.compression || stores_specially(segment, constants);
}

struct StepArgs {
    const Segment* segments;
    Gradient* gradients;  // of each segment: all segments of a parameter have one, with the same constants, or none has
    std::int64_t count;
    StepConstants* constants;  // shared by the parameters of a group that took the same number of steps
    std::int64_t constants_count;

    std::int64_t params() const { return count ? segments[count - 1].param + 1 : 0; }
    const StepConstants& constants_of(std::int64_t i) const { return constants[gradients[i].constants]; }
    // Of all gradients together.  Where that norm is bounded, it is the type of all constants.
    NormType norm_type() const { return constants_count ? constants[0].norm_type : NormType::kTwo; }
    bool bounds_norms() const {
        return std::any_of(constants, constants + constants_count, [](auto& each) { return each.bounds_norms(); });
    }
    // The elements of segment i that the step updates.
    std::int64_t stepped(std::int64_t i) const {
        const Gradient& gradient = gradients[i];
        return !gradient.data ? 0 : gradient.rows ? gradient.rows->size() : segments[i].p.size;
    }
};

}  // namespace fo
