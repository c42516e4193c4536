// Steps of parameters of 16 bits that have extra bits or are rounded randomly: a tile of the parameter is decoded to
// float32, the loops of a float32 parameter run on it, and it is encoded again.  So neither rules nor their loops
// contain anything of extra bits.
#pragma once

#include "../reduce.h"
#include "loop.h"

#include <algorithm>

namespace fo::cpu {

class NarrowTile {
    using Index = std::int64_t;

  public:
    NarrowTile(const Segment& segment, const ParameterLoops& loops) : from_(segment), here_(segment), loops_(loops) {
        here_.p.format = Format::kFloat32;
    }

    // Update the elements from begin to end.
    void update(Update update, const Gradient& gradient, const StepConstants& constants, Index begin, Index end) {
        for (Index n = 0; begin < end; begin += n) {
            n = std::min(end - begin, Index(kSumTile));
            open(begin, n);
            update(here_, gradient, constants, begin, begin + n);
            loops_.encode(from_, constants, begin, tile_, n);
        }
    }

    // Write the sums of tiles, kMaxSums apart.
    void reduce(Reduce reduce, const Gradient& gradient, const StepConstants& constants, Index first, Index last,
                double* sums) {
        for (Index tile = first; tile < last; ++tile, sums += kMaxSums) {
            const Index begin = tile * kSumTile;
            open(begin, std::min(from_.p.size - begin, Index(kSumTile)));
            reduce(here_, gradient, constants, tile, tile + 1, sums);
        }
    }

  private:
    // Decode a tile, and let the segment refer to it as if the whole parameter were there.
    void open(Index begin, Index n) {
        loops_.decode(from_, begin, tile_, n);
        const auto offset = static_cast<std::uintptr_t>(begin) * sizeof(float);
        here_.p.data = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(tile_) - offset);
    }

    const Segment& from_;
    Segment here_;
    const ParameterLoops& loops_;
    alignas(64) float tile_[kSumTile];
};

// Update a range of a segment, whatever the parameter's storage.
inline void update_range(Update update, const ParameterLoops& loops, const Segment& segment, const Gradient& gradient,
                         const StepConstants& constants, std::int64_t begin, std::int64_t end) {
    if (stores_specially(segment, constants))
        NarrowTile(segment, loops).update(update, gradient, constants, begin, end);
    else
        update(segment, gradient, constants, begin, end);
}

}  // namespace fo::cpu
