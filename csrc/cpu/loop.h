// The loops over a range of one segment: a function for each rule and compute type, a table of them for each
// instruction set.
#pragma once

#include "../random_bits.h"
#include "../step.h"
#include "ahead.h"

#include <cstdint>
#include <span>

namespace fo::cpu {

// Decodes what an update does not take as it is stored, and encodes it again, a tile of kSumTile elements at a time.
class Staging {
  public:
    // Let the segment of the update refer to decoded elements, and store these.
    virtual void open(std::int64_t begin, std::int64_t n) = 0;
    virtual void close(std::int64_t begin, std::int64_t n) = 0;

  protected:
    ~Staging() = default;
};

// Update the elements from begin to end; `staging` is null where all are taken as they are stored.
using Update = void (*)(const Segment&, const Gradient&, const StepConstants&, std::int64_t begin, std::int64_t end,
                        Staging* staging);

// Reduce the tiles of reduce.h from begin to end; writes each tile's sums, kMaxSums apart.
using Reduce = void (*)(const Segment&, const Gradient&, const StepConstants&, std::int64_t begin, std::int64_t end,
                        double* sums);

// Update the numbers of n rows from the sums of their terms, and write the factors of their elements.  `rows`: the
// places of the numbers in `state`; null if they begin at `state`.
using FinalizeRows = void (*)(const StepConstants&, std::int64_t row_size, const double* sums, void* state,
                              const std::int64_t* rows, void* factors, std::int64_t n);

struct RuleLoops {
    const char* rule;
    Update update_f32, update_f64;
    Reduce reduce_f32, reduce_f64;  // null where the rule needs no sums
    // Count the elements whose step agrees with the gradient.
    Reduce count_f32 = nullptr, count_f64 = nullptr;
    // Sum each tile of rows in a range of elements that one tile can hold: a row has tiles of its own.  Null where the
    // rule keeps no numbers of rows, as the two that follow.
    Reduce sum_rows_f32 = nullptr, sum_rows_f64 = nullptr;
    FinalizeRows finalize_rows_f32 = nullptr, finalize_rows_f64 = nullptr;
};

// Write to `to`, in the compute type, n elements of a gradient.
using DecodeGradient = void (*)(const Gradient&, std::int64_t begin, void* to, std::int64_t n);

// The terms of norms of gradients, by NormType (see gradient_terms), and the conversions of gradients.
struct GradientLoops {
    Reduce f32[3], f64[3], scaled_f64;
    DecodeGradient decode_rows_f32, decode_rows_f64;
    DecodeGradient decode_f32, decode_f64;  // without rows
};

// The key of an array's random bits, and its words for elements from 2^34*part on (rounding_key).
struct RoundingKey {
    RandomKey key;
    std::uint64_t part;
    Words words;
};

// The conversions of what an update does not take as it is stored.
struct StorageLoops {
    // All call Ahead::fetch once for 64 elements.
    //
    // Between a parameter of 16 bits, with its extra bits or rounded randomly, and float32.
    void (*decode_parameter)(const Segment&, std::int64_t begin, void* to, std::int64_t n, Ahead& ahead);
    void (*encode_parameter)(const Segment&, const RoundingKey&, std::int64_t begin, const void* from, std::int64_t n,
                             Ahead& ahead);
    // Between compressed state array k and the compute type; `begin` is a multiple of kCodeBlock for blocks.
    void (*decode_state)(const Segment&, std::size_t k, std::int64_t begin, void* to, std::int64_t n, Ahead& ahead);
    void (*encode_state)(const Segment&, std::size_t k, const RoundingKey&, std::int64_t begin, const void* from,
                         std::int64_t n, Ahead& ahead);
};

// Add the squares of `rows` rows of n elements, at most kSumTile, to the sums of rows and columns.  Distances of rows
// and of their sums are in elements.
using AddSquares = void (*)(const ArrayRef& block, std::int64_t row_stride, std::int64_t rows, std::int64_t n,
                            double* row_sums, std::int64_t sums_stride, double* column_sums);

struct AxisLoops {
    AddSquares f32, f64;
};

struct Loops {
    const RuleLoops* rules;  // indexed by rule
    GradientLoops gradient;
    StorageLoops storage;
    AxisLoops axis;
};

}  // namespace fo::cpu
