// Steps of arrays that an update does not take as they are stored: parameters of 16 bits that have extra bits or are
// rounded randomly, and compressed state.  A tile is decoded to the compute type, the loops of plain arrays run on it,
// and it is encoded again.  So neither rules nor their loops contain anything of these formats.
#pragma once

#include "../block_codes.h"
#include "../reduce.h"
#include "../rule_info.h"
#include "loop.h"

#include <algorithm>

namespace fo::cpu {

class StagedTile {
    using Index = std::int64_t;

  public:
    // `accesses` are those of the pass to the parameter, the gradient and each state array.
    StagedTile(const Segment& segment, const StepConstants& constants, const StorageLoops& loops,
               std::span<const Access> accesses)
        : from_(segment),
          here_(segment),
          constants_(constants),
          loops_(loops),
          accesses_(accesses),
          stages_p_(stores_specially(segment, constants)),
          stages_state_(segment.compression != nullptr) {
        if (stages_p_) here_.p.format = Format::kFloat32;
        if (!stages_state_) return;
        here_.compression = nullptr;
        here_.state = state_;
        std::copy_n(segment.state, accesses.size() - 2, state_);
        for (std::size_t k = 0; k < accesses.size() - 2; ++k) {
            tiles_[k] = states_[k];
            if (!is_staged(k)) continue;
            state_[k].format = compute_format(segment.p.format);
            if (accesses[k + 2] == Access::kWrite) written_ |= 1u << k;
        }
    }

    // Update the elements from begin to end.
    void update(Update update, const Gradient& gradient, Index begin, Index end) {
        for (Index n = 0; begin < end; begin += n) {
            n = std::min(end - begin, Index(kSumTile));
            if (from_.p.size >= kLong) look_ahead(gradient, begin + n, std::min(from_.p.size - begin - n, n));
            open(begin, n);
            update(here_, gradient, constants_, begin, begin + n);
            if (stages_p_) loops_.encode_parameter(from_, constants_, begin, tile_, n);
            close_state(begin, n);
        }
    }

    // Write the sums of tiles, kMaxSums apart, and store the state that they update if `writes`.
    void reduce(Reduce reduce, const Gradient& gradient, Index first, Index last, double* sums, bool writes) {
        for (Index tile = first; tile < last; ++tile, sums += kMaxSums) {
            const Index begin = tile * kSumTile, n = std::min(from_.p.size - begin, Index(kSumTile));
            open(begin, n);
            reduce(here_, gradient, constants_, tile, tile + 1, sums);
            if (writes) close_state(begin, n);
        }
    }

    // Sum each tile of rows in elements that one tile can hold.
    void sum_rows(Reduce sum, const Gradient& gradient, Index begin, Index end, double* sums) {
        open(begin, end - begin);
        sum(here_, gradient, constants_, begin, end, sums);
    }

  private:
    static constexpr Index kLong = 1 << 17;  // with fewer elements the arrays are in a cache

    // Let the conversions of this tile fetch the arrays of the next one.
    void look_ahead(const Gradient& gradient, Index begin, Index n) {
        const auto add = [&](const void* data, Format format) {
            ahead_.add(FO_TARGET::element(data, format, begin),
                       static_cast<std::size_t>(n) * FO_TARGET::item_size(format));
        };
        ahead_.clear();
        add(from_.p.data, from_.p.format);
        if (!gradient.axes) add(gradient.data, gradient.format);
        for (std::size_t k = 0; stages_state_ && k + 2 < accesses_.size(); ++k) {
            const std::size_t item = code_size(from_.compression[k].kind);
            if (item > 0)
                ahead_.add(static_cast<std::byte*>(from_.state[k].data) + begin * Index(item),
                           static_cast<std::size_t>(n) * item);
        }
    }

    bool is_staged(std::size_t k) const { return from_.compression[k].kind != Compression::kNone; }

    // Decode a tile, and let the segment refer to it as if the whole arrays were there.
    void open(Index begin, Index n) {
        if (stages_p_) {
            loops_.decode_parameter(from_, begin, tile_, n);
            here_.p.data = whole(tile_, begin, sizeof(float));
        }
        if (!stages_state_) return;
        const std::size_t item = compute_format(from_.p.format) == Format::kFloat64 ? sizeof(double) : sizeof(float);
        for (std::size_t k = 0; k + 2 < accesses_.size(); ++k) {
            if (!is_staged(k)) continue;
            if (accesses_[k + 2] != Access::kNone) loops_.decode_state(from_, k, begin, states_[k], n, ahead_);
            state_[k].data = whole(states_[k], begin, item);
        }
    }

    void close_state(Index begin, Index n) {
        if (written_) loops_.encode_state(from_, constants_, written_, begin, tiles_, n, ahead_);
    }

    // Return the address of element 0 of an array whose element `begin` is at the start of the tile.
    static void* whole(void* tile, Index begin, std::size_t item) {
        return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(tile) -
                                       static_cast<std::uintptr_t>(begin) * item);
    }

    const Segment& from_;
    Segment here_;
    const StepConstants& constants_;
    const StorageLoops& loops_;
    const std::span<const Access> accesses_;
    const bool stages_p_, stages_state_;
    ArrayRef state_[kMaxState];
    const void* tiles_[kMaxState];
    Ahead ahead_;
    std::uint32_t written_ = 0;  // the compressed arrays that the pass writes
    alignas(64) float tile_[kSumTile];
    alignas(64) std::byte states_[kMaxState][kSumTile * sizeof(double)];
};

// Update a range of a segment, whatever its storage.
inline void update_range(Update update, const StorageLoops& loops, const Segment& segment, const Gradient& gradient,
                         const StepConstants& constants, std::int64_t begin, std::int64_t end) {
    if (needs_staging(segment, constants))
        StagedTile(segment, constants, loops, rule_info(constants.rule).updated).update(update, gradient, begin, end);
    else
        update(segment, gradient, constants, begin, end);
}

// Sum each tile of rows in a range that one tile can hold, whatever the segment's storage.
inline void sum_range(Reduce sum, const StorageLoops& loops, const Segment& segment, const Gradient& gradient,
                      const StepConstants& constants, std::int64_t begin, std::int64_t end, double* sums) {
    if (needs_staging(segment, constants))
        StagedTile(segment, constants, loops, rule_info(constants.rule).reduced)
            .sum_rows(sum, gradient, begin, end, sums);
    else
        sum(segment, gradient, constants, begin, end, sums);
}

}  // namespace fo::cpu
