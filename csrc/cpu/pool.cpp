#include "pool.h"

#include <exception>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace fo::cpu {
namespace {

constexpr int kSpins = 2000;                         // 40 to 90 us on recent x86; more disturbs the threads of a BLAS
constexpr std::int64_t kRetryAfter = 1'000'000'000;  // ns

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

constexpr std::uint64_t tagged(std::int32_t epoch, std::uint64_t low) {
    return std::uint64_t(std::uint32_t(epoch)) << 32 | low;
}

// Python handles signals on the main thread.  Workers block them, so that the system does not deliver one to a worker.
class SignalsBlocked {
  public:
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;
#if defined(__unix__) || defined(__APPLE__)
    SignalsBlocked() {
        sigset_t blocked;
        sigfillset(&blocked);
        for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS}) sigdelset(&blocked, fault);
        pthread_sigmask(SIG_SETMASK, &blocked, &before_);
    }
    ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_;
#else
    SignalsBlocked() = default;
#endif
};

// Never destroyed, because its threads run until the process ends.
std::atomic<Pool*> the_pool{nullptr};

}  // namespace

Pool::Pool() : worker_(new Worker[kMaxThreads]), share_(new Share[kMaxThreads]) {}

Pool& Pool::instance() {
    Pool* pool = the_pool.load(std::memory_order_acquire);
    if (pool) return *pool;
    auto created = std::unique_ptr<Pool>(new Pool);
    if (the_pool.compare_exchange_strong(pool, created.get(), std::memory_order_acq_rel)) return *created.release();
    return *pool;
}

void Pool::guard_against_forks() {
#if defined(__unix__) || defined(__APPLE__)
    // The child has none of the threads, and the pool may have been in the middle of a pass at the fork.
    pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr, std::memory_order_relaxed); });
#endif
}

void Pool::grow(int workers) {
    if (workers_ >= workers || (retry_at_ && now_ns() < retry_at_)) return;
    const SignalsBlocked blocked;
    try {
        for (; workers_ < workers; ++workers_) std::thread([this, index = workers_ + 1] { work_as(index); }).detach();
        retry_at_ = 0;
    } catch (const std::exception&) {  // no thread, or no memory for one
        retry_at_ = now_ns() + kRetryAfter;
    }
}

// Workers may run where the caller may, except on the processor that the caller runs on now.  Otherwise Linux often
// wakes them on that processor: in a virtual machine it treats the other processors, which the host has put to sleep,
// as occupied (docs/performance.md).  They could then start only after the caller has finished.
void Pool::place_workers(const Affinity& affinity, int shares) {
    const int processor = shares <= affinity.count() ? this_processor() : -1;
    if (processor != processor_ || !(affinity == affinity_)) {
        affinity_ = affinity;
        processor_ = processor;
        ++placement_;
    }
    for (int index = 1; index < shares && index <= workers_; ++index) {
        Worker& worker = worker_[index];
        const int thread_id = worker.thread_id.load(std::memory_order_relaxed);
        if (worker.placement == placement_ || thread_id == 0) continue;
        affinity.without(processor).apply(thread_id);
        worker.placement = placement_;
    }
}

bool Pool::run(const Work& work, const Cut& cut, const Affinity& affinity, ChunkTimer& timer) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    grow(cut.shares - 1);
    place_workers(affinity, cut.shares);
    const Job job{work, cut};
    publish(job, cut.shares <= affinity.count() ? kSpins : 0);

    std::int64_t chunks = 0, own = 0;
    for (int share = 0; share < cut.shares; ++share) chunks += cut.chunks(share);
    run_chunks(0, epoch_, [&](int share, std::int64_t index) {
        const auto run_it = [&] { cut.run_chunk(work, share, index); };
        const bool whole = (index + 1) * cut.chunk <= cut.size(share);
        if (whole && timer.wants_more())
            timer.time(cut.chunk, run_it);
        else
            run_it();
        ++own;
    });
    wait_until_finished(chunks - own);
    busy_.store(false, std::memory_order_release);
    return true;
}

void Pool::publish(const Job& job, int spins) {
    if (epoch_ == INT32_MAX) {  // reports of the last pass with the same number must not count again
        for (int index = 1; index <= workers_; ++index) worker_[index].finished.store(0, std::memory_order_relaxed);
        epoch_ = 0;
    }
    ++epoch_;
    job_.store(&job, std::memory_order_relaxed);
    shares_.store(job.cut.shares, std::memory_order_relaxed);
    spins_.store(spins, std::memory_order_relaxed);
    for (int share = 0; share < job.cut.shares; ++share) {
        const auto chunks = static_cast<std::uint64_t>(job.cut.chunks(share));
        share_[share].state.store(tagged(epoch_, chunks << 16), std::memory_order_release);
    }
    for (int index = 1; index < job.cut.shares && index <= workers_; ++index) {
        Worker& worker = worker_[index];
        worker.signal.store(epoch_, std::memory_order_seq_cst);
        if (worker.asleep.load(std::memory_order_seq_cst)) futex_wake(worker.signal);
    }
}

Pool::Epoch Pool::wait_for_signal(Worker& self, Epoch last) const {
    for (int spins = spins_.load(std::memory_order_relaxed); spins > 0; --spins) {
        const Epoch signal = self.signal.load(std::memory_order_acquire);
        if (signal != last) return signal;
        pause();
    }
    // Each side writes its own variable and then reads the other's, sequentially consistent, so no signal is missed.
    self.asleep.store(true, std::memory_order_seq_cst);
    Epoch signal;
    while ((signal = self.signal.load(std::memory_order_seq_cst)) == last) futex_wait(self.signal, last);
    self.asleep.store(false, std::memory_order_relaxed);
    return signal;
}

void Pool::work_as(int index) {
    Worker& self = worker_[index];
    self.thread_id.store(this_thread_id(), std::memory_order_relaxed);
    for (Epoch epoch = 0;;) {
        epoch = wait_for_signal(self, epoch);
        std::uint64_t finished = 0;
        run_chunks(index, epoch, [&](int share, std::int64_t chunk) {
            // The claim succeeded, so the pass has not ended and the object in job_ exists.
            const Job& job = *job_.load(std::memory_order_relaxed);
            job.cut.run_chunk(job.work, share, chunk);
            self.finished.store(tagged(epoch, ++finished), std::memory_order_release);
        });
    }
}

// Claim the next chunk of a share.  Return -1 if none is left or the pass has ended.
std::int64_t Pool::claim(int share, Epoch epoch) {
    auto& state = share_[share].state;
    std::uint64_t seen = state.load(std::memory_order_acquire);
    for (;;) {
        const std::uint64_t next = seen & 0xffff, chunks = seen >> 16 & 0xffff;
        if (seen >> 32 != tagged(epoch, 0) >> 32 || next >= chunks) return -1;
        if (state.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire))
            return static_cast<std::int64_t>(next);
    }
}

// Run the chunks of one's own share, then the unclaimed chunks of the others.
template <class RunChunk>
void Pool::run_chunks(int first_share, Epoch epoch, const RunChunk& run_chunk) {
    const int shares = shares_.load(std::memory_order_relaxed);
    for (int k = 0; k < shares; ++k) {
        const int share = (first_share + k) % shares;
        for (std::int64_t chunk; (chunk = claim(share, epoch)) >= 0;) run_chunk(share, chunk);
    }
}

// Wait until the workers have finished that many chunks of the current pass.
void Pool::wait_until_finished(std::int64_t chunks) const {
    const int spins = spins_.load(std::memory_order_relaxed);
    for (int tries = 0;; ++tries) {
        std::int64_t finished = 0;
        for (int index = 1; index <= workers_; ++index) {
            const std::uint64_t report = worker_[index].finished.load(std::memory_order_acquire);
            if (report >> 32 == tagged(epoch_, 0) >> 32) finished += static_cast<std::int64_t>(report & 0xffffffff);
        }
        if (finished == chunks) return;
        if (tries < spins)
            pause();
        else  // a worker was interrupted within a chunk, and may be waiting for this processor
            std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
}

}  // namespace fo::cpu
