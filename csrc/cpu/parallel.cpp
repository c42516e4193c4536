#include "parallel.h"

#include "openmp.h"
#include "pool.h"
#include "thread_count.h"

#include <atomic>
#include <cstdlib>
#include <new>
#include <optional>
#include <stdexcept>

namespace fo::cpu {
namespace {

// The requested layer; empty for "auto".
struct alignas(4) Request {  // four bytes are atomic everywhere
    std::optional<Layer> layer;
    bool from_environment = false;
};
std::atomic<Request> request{Request{}};

thread_local LayerTuner tuner;

// The pool replaces OpenMP where that cannot be used, after a fork.
Layer usable(Layer layer) { return layer == Layer::kOpenMP && !openmp_usable() ? Layer::kPool : layer; }

// Return false without side effects if the layer has no threads available now.
bool run_on(Layer layer, const Work& work, const Cut& cut, ChunkTimer& timer) {
    if (layer == Layer::kOpenMP) return run_openmp(work, cut, timer);
    try {
        return layer == Layer::kPool && Pool::instance().run(work, cut, recent_affinity(), timer);
    } catch (const std::bad_alloc&) {  // creating the pool
        return false;
    }
}

}  // namespace

void run(const Work& work) {
    if (work.total < 2 * work.min_share) return work.run(0, work.total);
    const std::optional<Layer> asked = request.load(std::memory_order_relaxed).layer;
    const int threads = std::min(num_threads(), Pool::kMaxThreads);
    const std::int64_t shares = std::min<std::int64_t>(work.total / work.min_share, threads);
    if (shares < 2 || asked == Layer::kSerial) return work.run(0, work.total);

    const Cut cut(work, static_cast<int>(shares));
    ChunkTimer timer;
    if (asked) {
        if (!run_on(usable(*asked), work, cut, timer)) work.run(0, work.total);
        return;
    }
    const std::int64_t size = work.total / work.min_share;
    const std::int64_t begin = now_ns();
    const Layer layer = usable(tuner.choose(size, {openmp_usable(), openmp_shared_with_torch()}, begin));
    if (layer != Layer::kSerial && run_on(layer, work, cut, timer)) {
        tuner.record(size, layer, double(now_ns() - begin), timer.estimate(work.total));
    } else {
        work.run(0, work.total);
        tuner.record(size, Layer::kSerial, double(now_ns() - begin), 0);
    }
}

namespace {

void set_request(const std::string& name, bool from_environment) {
    const std::optional<Layer> layer = layer_named(name);
    if ((!layer && name != "auto") || (layer == Layer::kOpenMP && !kHasOpenMP))
        throw std::invalid_argument(std::string("expected 'auto', 'pool', ") + (kHasOpenMP ? "'openmp' " : "") +
                                    "or 'serial', got '" + name + "'");
    request.store({layer, from_environment}, std::memory_order_relaxed);
}

}  // namespace

void set_threading(const std::string& layer) { set_request(layer, false); }

void read_threading_from_environment() {
    const char* layer = std::getenv("FASTOPTIM_THREADING");
    if (!layer || !*layer) return;
    try {
        set_request(layer, true);
    } catch (const std::invalid_argument& error) {
        throw std::runtime_error(std::string("FASTOPTIM_THREADING: ") + error.what());
    }
}

std::string threading() {
    const std::optional<Layer> asked = request.load(std::memory_order_relaxed).layer;
    return asked ? name_of(*asked) : "auto";
}

NextPass next_large_pass() {
    const ThreadCount count = combine(read_thread_limits());
    const Request asked = request.load(std::memory_order_relaxed);
    if (asked.layer == Layer::kSerial) return {"serial", 1, asked.from_environment ? "environment" : "call"};
    if (count.threads < 2) return {"serial", 1, count.reason};
    const Layer layer =
        asked.layer ? usable(*asked.layer) : tuner.current({openmp_usable(), openmp_shared_with_torch()});
    if (layer == Layer::kSerial) return {"serial", 1, "measured"};
    return {name_of(layer), std::min(count.threads, Pool::kMaxThreads), count.reason};
}

}  // namespace fo::cpu
