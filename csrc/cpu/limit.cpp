#include "limit.h"

#include "shares.h"
#include "step.h"

#include <atomic>

namespace fo::cpu {

std::uint64_t limit(const LimitPasses& passes, bool sums_of_group, const Segment* segments, const Gradient* gradients,
                    std::int64_t count, std::uint64_t mask) {
    std::atomic<std::uint64_t> read{0};
    const bool in_batches = passes.measure_f32 && !sums_of_group;
    for (std::int64_t begin = 0, end; begin < count; begin = end) {
        const auto size_of = [&](std::int64_t i) { return segments[i].size; };
        end = in_batches ? batch_end(count, begin, size_of) : count;
        const auto begins = concatenate(end - begin, [&](std::int64_t i) { return size_of(begin + i); });
        const auto run = [&](LimitPass f32, LimitPass f64) {
            for_shares(begins, kMinShare, kAlign, [&](std::int64_t i, std::int64_t from, std::int64_t to) {
                const LimitPass pass = segments[begin + i].format == Format::kFloat64 ? f64 : f32;
                read.fetch_xor(pass(segments[begin + i], gradients[begin + i], mask, from, to),
                               std::memory_order_relaxed);
            });
        };
        if (passes.measure_f32) run(passes.measure_f32, passes.measure_f64);
        run(passes.update_f32, passes.update_f64);
    }
    return read.load(std::memory_order_relaxed);
}

}  // namespace fo::cpu
