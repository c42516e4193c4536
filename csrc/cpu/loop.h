// The work on a stretch of one segment, a function a rule and compute type; a table of them an instruction set.
#pragma once

#include "../step.h"

#include <cstdint>

namespace fo::cpu {

// Elements from begin to end.
using Update = void (*)(const Segment&, const Gradient&, const StepConstants&, std::int64_t begin, std::int64_t end);

// Tiles of sums.h from begin to end; writes every tile's sums, which stand kMaxSums apart.
using Reduce = void (*)(const Segment&, const Gradient&, const StepConstants&, std::int64_t begin, std::int64_t end,
                        double* sums);

struct Updates {
    Update f32, f64;
    Reduce reduce_f32, reduce_f64;  // null where the rule needs no sums
};

struct Loops {
    const Updates* updates;  // indexed by rule
    Reduce gradient_f32, gradient_f64;
};

// Each is defined by loop.cpp, compiled with that instruction set; isa.cpp chooses.
Loops loops_baseline();
Loops loops_avx2();
Loops loops_avx512();

}  // namespace fo::cpu
