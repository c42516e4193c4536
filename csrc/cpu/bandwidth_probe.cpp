#include "bandwidth_probe.h"

#include "device.h"
#include "shares.h"

#include <atomic>

namespace fo::cpu {

namespace {

std::uint64_t probe_batch(const ProbePasses& passes, const Segment* segments, const Gradient* gradients,
                          std::int64_t count, std::uint64_t mask) {
    const auto begins = concatenate(count, [&](std::int64_t i) { return segments[i].size; });
    std::atomic<std::uint64_t> read{0};
    const auto run = [&](ProbePass f32, ProbePass f64) {
        for_shares(begins, kMinShare, kAlign, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
            const ProbePass pass = segments[i].format == Format::kFloat64 ? f64 : f32;
            read.fetch_xor(pass(segments[i], gradients[i], mask, begin, end), std::memory_order_relaxed);
        });
    };
    if (passes.reduce_f32) run(passes.reduce_f32, passes.reduce_f64);
    run(passes.update_f32, passes.update_f64);
    return read.load(std::memory_order_relaxed);
}

}  // namespace

std::uint64_t run_probe(const ProbePasses& passes, bool reduces_group, const Segment* segments,
                        const Gradient* gradients, std::int64_t count, std::uint64_t mask) {
    const bool in_batches = passes.reduce_f32 && !reduces_group;
    std::uint64_t read = 0;
    for (std::int64_t begin = 0, end; begin < count; begin = end) {
        end = in_batches ? batch_end(count, begin, [&](std::int64_t i) { return segments[i].size; }) : count;
        read ^= probe_batch(passes, segments + begin, gradients + begin, end - begin, mask);
    }
    return read;
}

}  // namespace fo::cpu
