#include "threads.h"

#include <atomic>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace fo::cpu {
namespace {

int initial_threads() {
#if defined(_OPENMP)
    return omp_get_max_threads();
#else
    return 1;
#endif
}

std::atomic<int> threads{initial_threads()};

// GNU OpenMP's pool does not survive a fork: the child inherits the pool's books but not its threads, and its first
// parallel region waits for them forever.  Whoever started that pool (this library or another one), the child cannot
// know, so it never opens a region.
std::atomic<bool> forked{false};

}  // namespace

int num_threads() {
    if (!kHasOpenMP || forked.load(std::memory_order_relaxed)) return 1;
    return threads.load(std::memory_order_relaxed);
}

void set_num_threads(int n) { threads.store(n, std::memory_order_relaxed); }

void guard_forks() {
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
#endif
}

}  // namespace fo::cpu
