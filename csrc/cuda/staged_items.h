// What the kernels of staged.h need for a thread's elements: bytes that are decoded later, their turns through one
// loop, and the random bits of an array.
//
// Main types: RandomKeys, of an array; RandomItems, the places of a thread's elements.
#pragma once

#include "../block_codes.h"
#include "../extra_bits.h"
#include "reduce.h"

namespace fo::FO_TARGET {

// The addresses of the scales of each state array's codes follow the description.
template <class R>
FO_DEVICE inline const StagedDesc& staged_of(const TensorDesc& tensor) {
    const Axes* const axes = axes_of<R>(tensor);
    return *reinterpret_cast<const StagedDesc*>(axes + (kBroadcasts<R> ? R::state.size() : 0));
}

// Load bytes; they are decoded later.
template <bool kEdges, class T, int kItems>
FO_DEVICE inline void load_bytes(const char* array, const ThreadItems& span, bool aligned16, T (&x)[kItems]) {
    using Group = std::conditional_t<kTogether<T, kItems> == 2, std::uint16_t, std::uint32_t>;
    const auto at = [=](int e) { return array + place<T>(span, e); };
    Vector vector{};
    for_groups<kEdges, T, kItems>(
        span, aligned16, [&](int e) { vector.word[e / 4] |= std::uint32_t(load<Group>(at(e))) << e % 4 * 8; },
        [&](int e) { vector.word[e / 4] |= std::uint32_t(load<std::uint8_t>(at(e))) << e % 4 * 8; });
    keep_bits(vector, x);
}

FO_DEVICE inline std::uint8_t byte_of(const Vector& vector, int e) {
    return std::uint8_t(vector.word[e / 4] >> e % 4 * 8);
}

template <bool kEdges, class T, int kItems>
FO_DEVICE inline void store_bytes(char* array, const ThreadItems& span, bool aligned16, const Vector& vector) {
    using Group = std::conditional_t<kTogether<T, kItems> == 2, std::uint16_t, std::uint32_t>;
    const auto at = [=](int e) { return array + place<T>(span, e); };
    for_groups<kEdges, T, kItems>(
        span, aligned16, [&](int e) { store(at(e), Group(vector.word[e / 4] >> e % 4 * 8)); },
        [&](int e) { store(at(e), byte_of(vector, e)); });
}

// Move each element to the place before, and the first one to the last.
template <class X, int kItems>
FO_DEVICE inline void rotate(X (&x)[kItems]) {
    const X first = x[0];
    FO_UNROLL
    for (int e = 1; e < kItems; ++e) x[e - 1] = x[e];
    x[kItems - 1] = first;
}

// Call f(x, y) for the elements of two arrays, one after another.  The loop is not unrolled, so that the many
// conversions need little code; the arrays rotate, since registers have no indices.
template <class X, class Y, int kItems, class F>
FO_DEVICE inline void for_each_in_turn(X (&x)[kItems], Y (&y)[kItems], F f) {
    FO_NO_UNROLL
    for (int turn = 0; turn < kItems; ++turn) {
        f(x[0], y[0]);
        rotate(x);
        rotate(y);
    }
}

// Pack the lower halves of words, or their lower bytes.
template <int kItems>
FO_DEVICE inline Vector pack_halves(const std::uint32_t (&words)[kItems]) {
    Vector packed{};
    FO_UNROLL
    for (int e = 0; e < kItems; ++e) packed.word[e / 2] |= (words[e] & 0xffff) << e % 2 * 16;
    return packed;
}

template <int kItems>
FO_DEVICE inline Vector pack_bytes(const std::uint32_t (&words)[kItems]) {
    Vector packed{};
    FO_UNROLL
    for (int e = 0; e < kItems; ++e) packed.word[e / 4] |= (words[e] & 0xff) << e % 4 * 8;
    return packed;
}

// The keys of an array's random bits, in a block's shared memory: that of the parameter's rounding, and those of the
// state arrays.
template <class R>
class RandomKeys {
  public:
    static constexpr int kCount = int(R::state.size()) + 1;
    static constexpr int kDoubles = kCount * int(sizeof(Words) / sizeof(double));

    // Write the keys for the chunk that begins at an element, of a multiple of kChunk.
    template <class Block, class T>
    FO_DEVICE RandomKeys(Block& block, double* memory, const StagedDesc& staged, const KernelConstants<T>& constants,
                         std::int64_t begin)
        : words_(reinterpret_cast<Words*>(memory)) {
        const std::uint64_t element = staged.rows ? 0 : std::uint64_t(begin);
        block.phase([&](int thread) {
            if (thread >= kCount) return;
            const bool is_rounding = thread == 0;
            const auto use = is_rounding ? RandomUse::kRounding
                                         : RandomUse(std::uint32_t(RandomUse::kState) + std::uint32_t(thread) - 1);
            words_[thread] =
                rounding_key({is_rounding ? constants.seed : 0, constants.t, staged.random_param, use}, element);
        });
    }

    FO_DEVICE const Words& rounding() const { return words_[0]; }
    FO_DEVICE const Words& of_state(int k) const { return words_[1 + k]; }

  private:
    Words* words_;
};

// The places of a thread's elements in their parameter, which select the random bits.
template <int kItems>
class RandomItems {
  public:
    RandomItems() = default;

    template <class T>
    FO_DEVICE RandomItems(const StagedDesc& staged, std::int64_t begin, const ThreadItems& span, T) {
        FO_UNROLL
        for (int e = 0; e < kItems; ++e) element_[e] = begin + place<T>(span, e);
        if (!staged.rows) return;
        FO_NO_UNROLL
        for (int e = 0; e < kItems; ++e) {
            if (has<T>(span, e)) element_[0] = place_in_parameter(staged, element_[0]);
            rotate(element_);
        }
    }

    // Write the random bits of each element, 16 of them.
    FO_DEVICE void draw(const Words& key, std::uint32_t (&halves)[kItems]) const {
        FO_UNROLL
        for (int e = 0; e < kItems; ++e) halves[e] = rounding_bits(key, std::uint64_t(element_[e]));
    }

  private:
    FO_DEVICE static std::int64_t place_in_parameter(const StagedDesc& staged, std::int64_t element) {
        const std::int64_t row = quotient(element, staged.row_size);
        const auto own = load<std::int64_t>(reinterpret_cast<const char*>(staged.rows + row));
        return (own - row) * staged.row_size + element;
    }

    std::int64_t element_[kItems];
};

}  // namespace fo::FO_TARGET
