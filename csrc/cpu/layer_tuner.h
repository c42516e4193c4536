// Chooses, from measured times, whether the passes of one calling thread run on one thread, on the pool or on OpenMP.
//
// The time of every parallel pass is compared with the estimated time of the best alternative.  Each layer has a
// balance: the time that it saved, up to a limit, minus the time that it lost.  A layer with a negative balance is not
// used.  Three per cent of the time spent in other layers are added to such a balance.  Once it is zero, the layer is
// tried again for a few passes.  In the long run the loss is therefore a few per cent at most, whatever the other
// threads and processes of the machine do.
//
// It does not affect results: every layer gives the same bits.
#pragma once

#include "layer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace fo::cpu {

class LayerTuner {
  public:
    LayerTuner() = default;
    LayerTuner(const LayerTuner&) = delete;  // last_ points into the object
    LayerTuner& operator=(const LayerTuner&) = delete;

    struct Options {
        bool openmp;         // may be used
        bool prefer_openmp;  // its threads are kept awake by another library
    };

    // Return the layer for a pass.  `length` is in smallest shares; the pass begins at `now` (ns of any clock).
    Layer choose(std::int64_t length, Options options, std::int64_t now);

    // Record the time of a pass, and the estimate for one thread, in nanoseconds.  The estimate is ignored for a serial
    // pass; 0 if unknown, because the calling thread came too late to process a chunk.
    void record(std::int64_t length, Layer layer, double ns, double one_thread_ns);

    // Return the layer for passes of the size that ran last, ignoring trials.
    Layer current(Options options) const;

  private:
    static constexpr int kLayers = 3;
    static constexpr int kSizes = 40;
    static constexpr int kTrial = 8;  // passes of a trial; the first wakes the threads and does not count

    // All times are relative to the estimated time on one thread, so that rules and formats of any cost are comparable.
    struct Account {
        double time = 0;     // mean of recent passes
        double balance = 0;  // ns
        int passes = 0;
        int failures = 0;  // consecutive rejected trials
    };

    // Passes of similar size.
    struct Size {
        std::array<Account, kLayers> accounts;
        Layer current = Layer::kSerial;
        Layer trial = Layer::kSerial;
        int trial_left = 0;
        int hopeless = 0;                          // much slower passes of the trial
        std::array<double, kTrial> trial_times{};  // [kTrial - 1] is the first
        double one_thread_ns = 0;                  // the last estimate
        std::int64_t now = 0;                      // when choose() was called last
        std::int64_t disturbed_until = 0;          // the pool is not judged until then
        Options options{false, false};
        bool used = false;
    };

    Size& size_of(std::int64_t length) {
        return sizes_[static_cast<std::size_t>(std::min(int(std::bit_width(std::uint64_t(length))), kSizes - 1))];
    }
    static Layer preferred(Options options);
    static bool spins_on(const Size& size, Layer layer);
    static bool may_use(const Size& size, Layer layer);
    static double best_other(const Size& size, Layer layer);
    static void leave(Size& size, Layer layer);
    static double trial_debt(Size& size, Layer layer, double one_thread_ns);
    static double median_of_trial(Size& size);
    static void end_trial(Size& size, double one_thread_ns);

    std::array<Size, kSizes> sizes_;
    const Size* last_ = nullptr;
};

}  // namespace fo::cpu
