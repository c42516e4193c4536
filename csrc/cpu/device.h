// The CPU as a device: each pass is divided into shares for several threads.
#pragma once

#include "../device.h"
#include "loop.h"

#include <memory>

namespace fo::cpu {

// A share of fewer elements is not worth a thread.  A parallel region opens in microseconds on an idle machine, but
// waits long where another runtime of the process (a BLAS, PyTorch) still spins on the other processors:
// docs/performance.md.
inline constexpr std::int64_t kMinShare = 32768;

// Within a segment, shares begin at multiples of this, so that two threads rarely write to one cache line.
inline constexpr std::int64_t kAlign = 64;

// Fewest elements of rows per thread: they are far apart in memory, where an element takes several times as long.
inline constexpr std::int64_t kMinRowShare = 4096;

// A device that runs these loops.
std::unique_ptr<Device> make_device(const Loops& loops);

}  // namespace fo::cpu
