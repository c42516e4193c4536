// How many threads a step may use, and why a forked child uses one.
#pragma once

namespace fo::cpu {

inline constexpr bool kHasOpenMP =
#if defined(_OPENMP)
    true;
#else
    false;
#endif

// OMP_NUM_THREADS, else the processors this process may use, until set.  One after a fork and without OpenMP.
int num_threads();
void set_num_threads(int n);

// To be called once, when the module is loaded.
void guard_forks();

}  // namespace fo::cpu
