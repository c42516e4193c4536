// The set of processors that a thread may run on.
#pragma once

#include <array>
#include <bit>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fo::cpu {

class Affinity {
  public:
    static Affinity of_this_thread() {
        Affinity affinity;
#if defined(__linux__)
        // The system call itself: the library's function needs macros for masks of more than 1,024 processors.
        if (syscall(SYS_sched_getaffinity, 0, sizeof affinity.words_, affinity.words_.data()) > 0)
            for (const unsigned long word : affinity.words_) affinity.count_ += std::popcount(word);
#endif
        if (affinity.count_ == 0) affinity.count_ = static_cast<int>(std::thread::hardware_concurrency());
        return affinity;
    }

    // These processors except one; all of them if it is the only one.
    Affinity without(int processor) const {
        const auto at = static_cast<unsigned>(processor) / kBits;
        const unsigned long bit = 1ul << static_cast<unsigned>(processor) % kBits;
        if (processor < 0 || at >= words_.size() || !(words_[at] & bit) || count_ < 2) return *this;
        Affinity rest = *this;
        rest.words_[at] &= ~bit;
        --rest.count_;
        return rest;
    }

    // Move a thread of this process to these processors.  Best effort: one may have been taken away since.
    void apply([[maybe_unused]] int thread_id) const {
#if defined(__linux__)
        syscall(SYS_sched_setaffinity, thread_id, sizeof words_, words_.data());
#endif
    }

    int count() const { return count_; }

    bool operator==(const Affinity& other) const = default;

  private:
    static constexpr unsigned kBits = 8 * sizeof(unsigned long);

    std::array<unsigned long, 64> words_{};  // 4096 processors on a 64-bit system
    int count_ = 0;
};

// Return the processor that the calling thread runs on, or -1 if unknown.
inline int this_processor() {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

// Return the calling thread's number in the system, or 0 if unknown.
inline int this_thread_id() {
#if defined(__linux__)
    return static_cast<int>(syscall(SYS_gettid));
#else
    return 0;
#endif
}

}  // namespace fo::cpu
