// The concatenation of all segments, cut into equal chunks, one a thread: a thousand small arrays cost what one large
// array costs.  A small model stays on the calling thread.
#include "step.h"

#include "../float_environment.h"
#include "threads.h"

#include <algorithm>
#include <vector>

namespace fo::cpu {
namespace {

using Index = std::int64_t;

// A share of fewer elements is not worth a thread.  A region opens in microseconds on an idle machine, but waits long
// where another runtime of the process (a BLAS, PyTorch) still spins on the other processors: docs/performance.md.
constexpr Index kMinShare = 32768;

// Shares begin at multiples of this, so that two threads seldom write to one cache line.
constexpr Index kAlign = 64;

// Where each segment begins in the concatenation; last, where the concatenation ends.  Arrays without a gradient
// take no room.
std::vector<Index> concatenate(const Call& call) {
    std::vector<Index> begins(static_cast<std::size_t>(call.count) + 1);
    for (Index i = 0; i < call.count; ++i)
        begins[i + 1] = begins[i] + (call.gradients[i].data ? call.segments[i].size : 0);
    return begins;
}

void update_share(const Call& call, const Updates* updates, const std::vector<Index>& begins, Index begin, Index end) {
    if (begin >= end) return;
    const DefaultFloatEnvironment environment;
    auto i = std::upper_bound(begins.begin(), begins.end(), begin) - begins.begin() - 1;
    for (; begin < end; ++i) {
        const Index stop = std::min(end, begins[i + 1]);
        if (begin == stop) continue;
        const Segment& segment = call.segments[i];
        const Gradient& gradient = call.gradients[i];
        const Scalars& scalars = call.scalars[gradient.scalars];
        const Updates& update = updates[scalars.rule];
        (segment.format == Format::kFloat64 ? update.f64 : update.f32)(segment, gradient, scalars, begin - begins[i],
                                                                       stop - begins[i]);
        begin = stop;
    }
}

Index share_begin(Index total, Index shares, Index k) {
    const Index even = total / shares * k + std::min(k, total % shares);
    return k == shares ? total : even / kAlign * kAlign;
}

}  // namespace

void step(const Call& call, const Updates* updates) {
    const std::vector<Index> begins = concatenate(call);
    const Index total = begins.back();
    const Index shares = std::clamp<Index>(total / kMinShare, 1, num_threads());
    if (shares == 1) return update_share(call, updates, begins, 0, total);

    // A static schedule gives every thread the same share in every step, so its data stays in its caches.
#if defined(_OPENMP)
#pragma omp parallel for num_threads(static_cast<int>(shares)) schedule(static, 1)
#endif
    for (Index k = 0; k < shares; ++k)
        update_share(call, updates, begins, share_begin(total, shares, k), share_begin(total, shares, k + 1));
}

}  // namespace fo::cpu
