// A thread pool with work stealing.  The calling thread processes its own share and then every unclaimed chunk.  It
// never waits for a thread that has not started, only for chunks that are being processed.  Idle threads spin for
// some tens of microseconds, then sleep.
//
// One pass runs at a time.  For a second concurrent caller run() returns false, and the pass is run serially.
#pragma once

#include "affinity.h"
#include "futex.h"
#include "work.h"

#include <atomic>
#include <cstdint>
#include <memory>

namespace fo::cpu {

class Pool {
  public:
    static constexpr int kMaxThreads = 1024;  // including the caller

    // Return this process's pool.  A forked process has a pool of its own, whose threads are created when needed.
    static Pool& instance();

    // Call once, when the module is loaded.
    static void guard_against_forks();

    // Run the work on the calling thread and up to cut.shares - 1 others; on fewer if no more can be created.
    // Return false without running anything if another thread is running a pass.
    bool run(const Work& work, const Cut& cut, const Affinity& affinity, ChunkTimer& timer);

  private:
    using Epoch = std::int32_t;  // numbers the passes

    struct Job {
        const Work& work;
        const Cut& cut;
    };

    // The signal to a worker and its reports, on separate cache lines for each worker.
    struct alignas(64) Worker {
        FutexWord signal{0};                     // the newest pass it may help with
        std::atomic<bool> asleep{false};         // must be woken
        std::atomic<std::uint64_t> finished{0};  // epoch << 32 | chunks of that pass
        std::atomic<int> thread_id{0};           // 0 until it has started
        int placement = 0;                       // written by the caller: number of the affinity mask applied
    };

    // epoch << 32 | chunks << 16 | next chunk.  Claiming a chunk is one compare-and-swap, which fails for a worker that
    // is late by a pass.
    struct alignas(64) Share {
        std::atomic<std::uint64_t> state{0};
    };
    static_assert(Cut::kMaxChunks < 1 << 16);

    Pool();
    void grow(int workers);
    void place_workers(const Affinity& affinity, int shares);
    void publish(const Job& job, int spins);
    void work_as(int index);
    Epoch wait_for_signal(Worker& self, Epoch last) const;
    std::int64_t claim(int share, Epoch epoch);
    template <class RunChunk>
    void run_chunks(int first_share, Epoch epoch, const RunChunk& run_chunk);
    void wait_until_finished(std::int64_t chunks) const;

    std::atomic<bool> busy_{false};  // a pass is running; all below that is not atomic belongs to its caller
    int workers_ = 0;
    std::int64_t retry_at_ = 0;  // after a failure to create a thread
    Epoch epoch_ = 0;
    Affinity affinity_;   // of the last caller
    int processor_ = -1;  // of the last caller, excluded from the workers' mask; -1: not excluded
    int placement_ = 0;   // numbers the masks for the workers
    std::atomic<const Job*> job_{nullptr};
    std::atomic<int> shares_{0};
    std::atomic<int> spins_{0};
    std::unique_ptr<Worker[]> worker_;
    std::unique_ptr<Share[]> share_;
};

}  // namespace fo::cpu
