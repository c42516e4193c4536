// The number of threads that a step may use, from several settings, most of which may change while the program runs.
#pragma once

#include "affinity.h"

namespace fo::cpu {

// A number of threads and the limit that determined it: "affinity", "quota", "environment", "limit" or "call".
struct ThreadCount {
    int threads;
    const char* reason;
};

// The individual limits; 0 if not set.
struct ThreadLimits {
    int affinity;     // processors in the affinity mask of the calling thread
    int quota;        // processors of the cgroup quota, rounded down, at least 1
    int environment;  // OMP_NUM_THREADS
    int limit;        // the calling thread's OpenMP limit, if it was set at run time or before the import
    int call;         // set_num_threads
};

// Return `call`, else `environment`, else the smaller of `affinity` and `quota`; but never more than `limit`.
ThreadCount combine(const ThreadLimits& limits);

// Read all limits now.  Takes some tens of microseconds, because it reads the cgroup's files.
ThreadLimits read_thread_limits();

// Return combine(read_thread_limits()).threads from an affinity mask that is at most a millisecond old and a quota that
// is at most a second old: cheap enough for every step.
int num_threads();
void set_num_threads(int n);

// The affinity mask that num_threads() last read on the calling thread.
const Affinity& recent_affinity();

}  // namespace fo::cpu
