// One step of a whole model on the CPU.
#pragma once

#include "../step.h"
#include "loop.h"

#include <vector>

namespace fo::cpu {

// A share of fewer elements is not aligned_benefit a thread.  A region opens in microseconds on an idle machine, but
// waits long where another runtime of the process (a BLAS, PyTorch) still spins on the other processors:
// docs/performance.md.
inline constexpr std::int64_t kMinShare = 32768;

// Shares begin at multiples of this, so that two threads seldom write to one cache line.
inline constexpr std::int64_t kAlign = 64;

// The arrays were checked; nothing here can fail but the allocation of small tables.  That comes before the first write
// but for rules that reduce, whose second pass and further batches have tables of their own.
// False if a gradient is not finite and the step was to be skipped then; nothing was written.
bool step(const StepArgs& step, const Loops& loops);

// Sums over each array's gradient as it is before its norm is bounded, kMaxSums apart: see gradient_terms.
std::vector<double> gradient_sums(const StepArgs& step, const Loops& loops);

}  // namespace fo::cpu
