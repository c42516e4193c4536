// Sleep until a word changes, and wake the thread that sleeps.
//
// std::atomic's wait and notify do the same, but libstdc++ yields the processor several times before it sleeps.  On
// Linux 6.18 a thread that has yielded and is woken soon afterwards does not preempt a BLAS thread that spins on the
// same processor.  It starts milliseconds late (docs/performance.md).
#pragma once

#include <atomic>
#include <cstdint>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fo::cpu {

using FutexWord = std::atomic<std::int32_t>;
static_assert(sizeof(FutexWord) == 4);

// Return when the word is no longer `old`, or spuriously.
inline void futex_wait(FutexWord& word, std::int32_t old) {
#if defined(__linux__)
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
#else
    word.wait(old);
#endif
}

inline void futex_wake(FutexWord& word) {
#if defined(__linux__)
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
#else
    word.notify_one();
#endif
}

}  // namespace fo::cpu
