// Steps of arrays that an update does not take as they are stored: parameters of 16 bits that have extra bits or are
// rounded randomly, and compressed state.  A tile is decoded to the compute type, the loops of plain arrays run on it,
// and it is encoded again.  So neither rules nor their loops contain anything of these formats.
#pragma once

#include "../block_codes.h"
#include "../extra_bits.h"
#include "../reduce.h"
#include "../rule_info.h"
#include "loop.h"

#include <algorithm>

namespace fo::cpu {

class StagedTile final : Staging {
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
            if (!is_staged(k)) continue;
            state_[k].format = compute_format(segment.p.format);
            if (accesses[k + 2] == Access::kWrite) written_ |= 1u << k;
        }
    }

    // Update the elements from begin to end.
    void update(Update update, const Gradient& gradient, Index begin, Index end) {
        make_keys(begin);
        if (from_.p.size >= kLong) gradient_ = &gradient;
        update(here_, gradient, constants_, begin, end, this);
    }

    // Write the sums of tiles, kMaxSums apart, and store the state that they update if `writes`.
    void reduce(Reduce reduce, const Gradient& gradient, Index first, Index last, double* sums, bool writes) {
        make_keys(first * kSumTile);
        for (Index tile = first; tile < last; ++tile, sums += kMaxSums) {
            const Index begin = tile * kSumTile, n = std::min(from_.p.size - begin, Index(kSumTile));
            decode(begin, n);
            reduce(here_, gradient, constants_, tile, tile + 1, sums);
            if (writes) encode_state(begin, n);
        }
    }

    // Sum each tile of rows in elements that one tile can hold.
    void sum_rows(Reduce sum, const Gradient& gradient, Index begin, Index end, double* sums) {
        decode(begin, end - begin);
        sum(here_, gradient, constants_, begin, end, sums);
    }

  private:
    static constexpr Index kLong = 1 << 17;  // with fewer elements the arrays are in a cache

    void open(Index begin, Index n) override {
        if (gradient_) look_ahead(begin + n, std::min(from_.p.size - begin - n, n));
        decode(begin, n);
    }

    void close(Index begin, Index n) override {
        if (stages_p_) loops_.encode_parameter(from_, keys_[kMaxState], begin, tile_, n, ahead_);
        encode_state(begin, n);
    }

    // Compute the keys of what is rounded randomly.
    void make_keys(Index begin) {
        const std::uint64_t part = static_cast<std::uint64_t>(from_.first_element + begin) >> 34;
        const auto make = [&](RoundingKey& to, std::uint64_t seed, RandomUse use) {
            to = {{seed, constants_.t, from_.random_param, use}, part, {}};
            to.words = FO_TARGET::random_words(to.key, part);
        };
        if (stages_p_ && from_.extra.kind == Extra::kNone)
            make(keys_[kMaxState], constants_.seed, RandomUse::kRounding);
        for (std::uint32_t k = 0; written_ >> k != 0; ++k)
            if (written_ >> k & 1)
                make(keys_[k], 0, static_cast<RandomUse>(static_cast<std::uint32_t>(RandomUse::kState) + k));
    }

    // Let the conversions of this tile fetch the parameter, its extra bits and the gradient of the next one.
    void look_ahead(Index begin, Index n) {
        std::size_t conversions = stages_p_ ? 2 : 0;
        for (std::size_t k = 0; stages_state_ && k + 2 < accesses_.size(); ++k)
            if (is_staged(k)) conversions += int(accesses_[k + 2] != Access::kNone) + int(written_ >> k & 1);
        ahead_.clear();
        if (n <= 0 || conversions == 0) return;
        const std::size_t calls = conversions * static_cast<std::size_t>((n + kCodeBlock - 1) / kCodeBlock);
        const auto add = [&](const void* data, std::size_t item) {
            ahead_.add(static_cast<const std::byte*>(data) + static_cast<std::size_t>(begin) * item,
                       static_cast<std::size_t>(n) * item, calls);
        };
        add(from_.p.data, FO_TARGET::item_size(from_.p.format));
        if (from_.extra.data) add(from_.extra.data, item_size(from_.extra.kind));
        if (!gradient_->axes) add(gradient_->data, FO_TARGET::item_size(gradient_->format));
    }

    bool is_staged(std::size_t k) const { return from_.compression[k].kind != Compression::kNone; }

    // Decode a tile, and let the segment refer to it as if the whole arrays were there.
    void decode(Index begin, Index n) {
        if (stages_p_) {
            loops_.decode_parameter(from_, begin, tile_, n, ahead_);
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

    void encode_state(Index begin, Index n) {
        for (std::uint32_t k = 0; written_ >> k != 0; ++k)
            if (written_ >> k & 1) loops_.encode_state(from_, k, keys_[k], begin, states_[k], n, ahead_);
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
    RoundingKey keys_[kMaxState + 1];  // of the state arrays and the parameter
    Ahead ahead_;
    const Gradient* gradient_ = nullptr;  // of an update of arrays that are longer than the caches
    std::uint32_t written_ = 0;           // the compressed arrays that the pass writes
    alignas(64) float tile_[kSumTile];
    alignas(64) std::byte states_[kMaxState][kSumTile * sizeof(double)];
};

// Update a range of a segment, whatever its storage.
inline void update_range(Update update, const StorageLoops& loops, const Segment& segment, const Gradient& gradient,
                         const StepConstants& constants, std::int64_t begin, std::int64_t end) {
    if (needs_staging(segment, constants))
        StagedTile(segment, constants, loops, rule_info(constants.rule).updated).update(update, gradient, begin, end);
    else
        update(segment, gradient, constants, begin, end, nullptr);
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
