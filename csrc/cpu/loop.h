// The update of a stretch of one segment, one function a rule and compute type; a table of them an instruction set.
#pragma once

#include "../call.h"

#include <cstdint>

namespace fo::cpu {

using Update = void (*)(const Segment&, const Gradient&, const Scalars&, std::int64_t begin, std::int64_t end);

struct Updates {
    Update f32, f64;
};

// Indexed by rule.  Each is defined by loop.cpp, compiled with that instruction set; isa.cpp chooses.
const Updates* updates_baseline();
const Updates* updates_avx2();
const Updates* updates_avx512();

}  // namespace fo::cpu
