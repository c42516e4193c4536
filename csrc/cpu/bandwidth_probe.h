// What a step is reduced against: passes that read and write the very bytes that the rule does, side by side, with the
// least arithmetic there is.  Each word that the rule writes is written back with `mask` added by exclusive or: with a
// mask of 0 nothing changes, so that the pass can run on the arrays of the step itself.  Each word that it only reads
// goes into the answer, the exclusive or of them all.
#pragma once

#include "../step.h"

#include <cstdint>

namespace fo::cpu {

// Elements from begin to end.  Returns what was only read.
using ProbePass = std::uint64_t (*)(const Segment&, const Gradient&, std::uint64_t mask, std::int64_t begin,
                                    std::int64_t end);

struct ProbePasses {
    ProbePass update_f32, update_f64;
    ProbePass reduce_f32, reduce_f64;  // null where the rule needs no sums
};

// Each is defined by bandwidth_probe_loop.cpp, compiled with that instruction set; isa.cpp chooses.
const ProbePasses* probes_baseline();
const ProbePasses* probes_avx2();
const ProbePasses* probes_avx512();

// The passes of one step of that rule over all segments, on the threads and in the shares and batches of a step.
std::uint64_t run_probe(const ProbePasses& passes, bool reduces_group, const Segment* segments,
                        const Gradient* gradients, std::int64_t count, std::uint64_t mask);

}  // namespace fo::cpu
