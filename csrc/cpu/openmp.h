// Access to the OpenMP runtime.  The functions also exist in builds without OpenMP.
#pragma once

#include "work.h"

namespace fo::cpu {

inline constexpr bool kHasOpenMP =
#if defined(_OPENMP)
    true;
#else
    false;
#endif

// omp_get_max_threads and omp_get_num_procs; 0 without OpenMP.
int openmp_max_threads();
int openmp_processors();

// Return whether a parallel region may be opened.  False without OpenMP, and in a forked process.  GNU OpenMP's threads
// do not survive a fork, but its internal state does: if any library used it before, the first region waits forever.
bool openmp_usable();

// Return whether PyTorch is loaded and uses the runtime that this library is linked with, so that its threads are often
// awake.  The answer is determined again once a second.
bool openmp_shared_with_torch();

// Run the work in one parallel region with a static schedule.  Return false without side effects if threads cannot be
// created.
bool run_openmp(const Work& work, const Cut& cut, ChunkTimer& timer);

// Call once, when the module is loaded.
void guard_openmp_against_forks();

}  // namespace fo::cpu
