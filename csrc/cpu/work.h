// One pass: a parallel loop over the elements of a model, divided for several threads.  A step has one pass or more.
#pragma once

#include "clock.h"

#include <algorithm>
#include <array>
#include <cstdint>

namespace fo::cpu {

// function(context, begin, end) processes a range of units.  The ranges of one pass may be processed in any order and
// concurrently.  A unit is an element, or a tile of 1,024 elements of a reduction.
struct Work {
    void (*function)(const void* context, std::int64_t begin, std::int64_t end);
    const void* context;
    std::int64_t total;      // units
    std::int64_t min_share;  // smallest share that justifies a thread
    std::int64_t align;      // ranges begin at multiples of this

    void run(std::int64_t begin, std::int64_t end) const { function(context, begin, end); }
};

// Nearly equal shares, one per thread, each divided into chunks.  A thread has the same share in every step, so that
// its data stays in its caches.  Idle threads steal chunks from slow ones.
struct Cut {
    static constexpr std::int64_t kMaxChunks = 4096;  // of a share

    std::int64_t total, align, chunk;
    int shares;

    Cut(const Work& work, int shares_) : total(work.total), align(work.align), shares(shares_) {
        const std::int64_t even = (total + shares - 1) / shares;
        const std::int64_t least = std::max(work.min_share / 2, even / kMaxChunks + 1);
        chunk = std::max<std::int64_t>((least + align - 1) / align, 1) * align;
    }

    std::int64_t begin(int share) const {
        if (share == shares) return total;
        const std::int64_t even = total / shares * share + std::min<std::int64_t>(share, total % shares);
        return even / align * align;
    }
    std::int64_t size(int share) const { return begin(share + 1) - begin(share); }
    std::int64_t chunks(int share) const { return (size(share) + chunk - 1) / chunk; }

    void run_chunk(const Work& work, int share, std::int64_t index) const {
        const std::int64_t first = begin(share) + index * chunk;
        work.run(first, std::min(first + chunk, begin(share + 1)));
    }
};

// Times the calling thread's first chunks, to estimate the time of the whole pass on one thread.
class ChunkTimer {
  public:
    bool wants_more() const { return count_ < kSamples; }

    template <class F>
    void time(std::int64_t units, const F& f) {
        const std::int64_t before = now_ns();
        f();
        ns_per_unit_[count_++] = double(now_ns() - before) / double(units);
    }

    // Estimate the nanoseconds for that many units.  No chunk counts as more than twice the fastest, so that an
    // interruption has little effect.
    double estimate(std::int64_t units) const {
        if (count_ == 0) return 0;
        const double fastest = *std::min_element(ns_per_unit_.begin(), ns_per_unit_.begin() + count_);
        double sum = 0;
        for (int i = 0; i < count_; ++i) sum += std::min(ns_per_unit_[i], 2 * fastest);
        return sum / count_ * double(units);
    }

  private:
    static constexpr int kSamples = 4;
    std::array<double, kSamples> ns_per_unit_{};
    int count_ = 0;
};

}  // namespace fo::cpu
