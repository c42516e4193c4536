// What an update is reduced against, as ../cpu/bandwidth_probe.h says: its own way through memory, with words in place
// of numbers. One kernel serves every rule with so many state arrays: which of them are read and which written is the
// same for all threads of a launch, as the formats are.
#pragma once

#include "update.h"

namespace fo::FO_TARGET {

// First in the arguments.  Arrays are named by the bits of Aligned16; what is written is not in `read`.
struct alignas(16) ProbeArguments {
    std::uint64_t mask;
    std::uint64_t* answers;  // of each block: the exclusive or of what it only read
    unsigned read, written;
};
static_assert(sizeof(ProbeArguments) <= sizeof(Numbers<float>));  // so that a table fits that does beside those

template <int kBytes>
using Unsigned =
    std::conditional_t<kBytes == 8, std::uint64_t, std::conditional_t<kBytes == 4, std::uint32_t, std::uint16_t>>;

// A thread's elements as they lie in memory, if each has so many bytes.
template <int kBytes>
inline constexpr int kQuarters = kItemsPerThread * kBytes / 4;

template <int kBytes>
FO_DEVICE inline Unsigned<kBytes> word_of(const std::uint32_t* x, int e) {
    if constexpr (kBytes == 8) return std::uint64_t(x[2 * e + 1]) << 32 | x[2 * e];
    if constexpr (kBytes == 4) return x[e];
    if constexpr (kBytes == 2) return std::uint16_t(x[e / 2] >> e % 2 * 16);
}

// Of two that share a place, the first first.
template <int kBytes>
FO_DEVICE inline void set_word(std::uint32_t* x, int e, Unsigned<kBytes> word) {
    if constexpr (kBytes == 8) x[2 * e + 1] = std::uint32_t(word >> 32);
    if constexpr (kBytes == 8) x[2 * e] = std::uint32_t(word);
    if constexpr (kBytes == 4) x[e] = word;
    if constexpr (kBytes == 2) x[e / 2] = e % 2 ? x[e / 2] | std::uint32_t(word) << 16 : word;
}

// The same accesses as elements.h's.
template <class Word, int kBytes>
FO_DEVICE inline void load_words(const char* array, const ThreadItems& span, bool aligned16, std::uint32_t* x) {
    if (aligned16) {
        FO_UNROLL
        for (int i = 0; i < kQuarters<kBytes>; i += 4) {
            const Vector vector = load<Vector>(array + place<Word>(span, i * 4 / kBytes) * kBytes);
            std::memcpy(x + i, &vector, sizeof vector);
        }
    } else {
        FO_UNROLL
        for (int e = 0; e < kItemsPerThread; ++e)
            set_word<kBytes>(x, e, load<Unsigned<kBytes>>(array + place<Word>(span, e) * kBytes));
    }
}

template <class Word, int kBytes>
FO_DEVICE inline void store_words(char* array, const ThreadItems& span, bool aligned16, std::uint64_t mask,
                                  const std::uint32_t* x) {
    std::uint32_t changed[kQuarters<kBytes>];
    FO_UNROLL
    for (int e = 0; e < kItemsPerThread; ++e)
        set_word<kBytes>(changed, e, Unsigned<kBytes>(word_of<kBytes>(x, e) ^ Unsigned<kBytes>(mask)));
    if (aligned16) {
        FO_UNROLL
        for (int i = 0; i < kQuarters<kBytes>; i += 4) {
            Vector vector;
            std::memcpy(&vector, changed + i, sizeof vector);
            store(array + place<Word>(span, i * 4 / kBytes) * kBytes, vector);
        }
    } else {
        FO_UNROLL
        for (int e = 0; e < kItemsPerThread; ++e)
            store(array + place<Word>(span, e) * kBytes, word_of<kBytes>(changed, e));
    }
}

template <int kBytes>
FO_DEVICE inline std::uint64_t xor_of(const std::uint32_t* x) {
    Unsigned<kBytes> all = 0;
    FO_UNROLL
    for (int e = 0; e < kItemsPerThread; ++e) all = Unsigned<kBytes>(all ^ word_of<kBytes>(x, e));
    return all;
}

// Calls f with how many bytes an element has, as a type.
template <class F>
FO_DEVICE inline void with_bytes(Format format, F f) {
    if (format == Format::kFloat64)
        f(std::integral_constant<int, 8>());
    else if (format == Format::kFloat32)
        f(std::integral_constant<int, 4>());
    else
        f(std::integral_constant<int, 2>());
}

// Those of a parameter whose compute type has a word's size.
template <class Word, class F>
FO_DEVICE inline void with_bytes_of_parameter(Format format, F f) {
    if constexpr (sizeof(Word) == 8)
        f(std::integral_constant<int, 8>());
    else if (format == Format::kFloat32)
        f(std::integral_constant<int, 4>());
    else
        f(std::integral_constant<int, 2>());
}

FO_DEVICE inline std::uint64_t load_word(std::size_t bytes, const char* array, std::int32_t i) {
    if (bytes == 8) return load<std::uint64_t>(array + i * 8);
    return bytes == 4 ? load<std::uint32_t>(array + i * 4) : load<std::uint16_t>(array + i * 2);
}

FO_DEVICE inline void store_word(std::size_t bytes, char* array, std::int32_t i, std::uint64_t word) {
    if (bytes == 8)
        store(array + i * 8, word);
    else if (bytes == 4)
        store(array + i * 4, std::uint32_t(word));
    else
        store(array + i * 2, std::uint16_t(word));
}

// A chunk of an array as a thread sees it; what it only reads goes into `sums`, by thread.
template <class Word, int kState>
class LimitStretch {
  public:
    FO_DEVICE LimitStretch(const TensorDesc& tensor, const ProbeArguments& numbers, std::int64_t begin, double* sums)
        : tensor_(tensor), numbers_(numbers), begin_(begin), sums_(sums) {}

    FO_DEVICE void operator()(int thread, const ThreadItems& span) const {
        if (is_empty(span)) return;
        std::uint64_t sum = 0;
        if (has_all<Word>(span)) {
            sum = pass_all(span);
        } else {
            for (int e = 0; e < kItemsPerThread; ++e)
                if (has<Word>(span, e)) sum ^= pass_one(place<Word>(span, e));
        }
        sums_[thread] = bits<double>(bits<std::uint64_t>(sums_[thread]) ^ sum);
    }

  private:
    static constexpr int kBytes = sizeof(Word);

    // Everything is loaded before anything is waited for, and before anything is stored.
    FO_DEVICE std::uint64_t pass_all(const ThreadItems& span) const {
        std::uint32_t p[kQuarters<kBytes>]{}, g[kQuarters<8>]{}, average[kQuarters<kBytes>]{};
        std::uint32_t state[kState + 1][kQuarters<kBytes>]{};
        if (touches(kAlignedP))
            with_bytes_of_parameter<Word>(tensor_.p_format, [&](auto bytes) {
                load_words<Word, bytes>(at<bytes>(tensor_.p), span, is_aligned16(kAlignedP), p);
            });
        if (touches(kAlignedG))
            with_bytes(tensor_.g_format, [&](auto bytes) {
                load_words<Word, bytes>(at<bytes>(tensor_.g), span, is_aligned16(kAlignedG), g);
            });
        FO_UNROLL
        for (int k = 0; k < kState; ++k)
            if (touches(kAlignedState << k))
                load_words<Word, kBytes>(at<kBytes>(own(k)), span, is_aligned16(kAlignedState << k), state[k]);
        if (averages())
            load_words<Word, kBytes>(at<kBytes>(tensor_.average), span, is_aligned16(kAlignedAverage), average);

        std::uint64_t sum = 0;
        if (reads(kAlignedP))
            with_bytes_of_parameter<Word>(tensor_.p_format, [&](auto bytes) { sum ^= xor_of<bytes>(p); });
        if (reads(kAlignedG)) with_bytes(tensor_.g_format, [&](auto bytes) { sum ^= xor_of<bytes>(g); });
        FO_UNROLL
        for (int k = 0; k < kState; ++k)
            if (reads(kAlignedState << k)) sum ^= xor_of<kBytes>(state[k]);

        const std::uint64_t mask = numbers_.mask;
        if (averages())
            store_words<Word, kBytes>(at<kBytes>(tensor_.average), span, is_aligned16(kAlignedAverage), mask, average);
        FO_UNROLL
        for (int k = 0; k < kState; ++k)
            if (writes(kAlignedState << k))
                store_words<Word, kBytes>(at<kBytes>(own(k)), span, is_aligned16(kAlignedState << k), mask, state[k]);
        if (writes(kAlignedP))
            with_bytes_of_parameter<Word>(tensor_.p_format, [&](auto bytes) {
                store_words<Word, bytes>(at<bytes>(tensor_.p), span, is_aligned16(kAlignedP), mask, p);
            });
        return sum;
    }

    // At an array's edges.
    FO_DEVICE std::uint64_t pass_one(std::int32_t i) const {
        const std::size_t p_bytes = item_size(tensor_.p_format), g_bytes = item_size(tensor_.g_format);
        char* const p_at = tensor_.p + begin_ * std::int64_t(p_bytes);
        const std::uint64_t p = touches(kAlignedP) ? load_word(p_bytes, p_at, i) : 0;
        const std::uint64_t g =
            touches(kAlignedG) ? load_word(g_bytes, tensor_.g + begin_ * std::int64_t(g_bytes), i) : 0;
        Word state[kState + 1]{}, average{};
        FO_UNROLL
        for (int k = 0; k < kState; ++k)
            if (touches(kAlignedState << k)) state[k] = load<Word>(at<kBytes>(own(k)) + i * kBytes);
        if (averages()) average = load<Word>(at<kBytes>(tensor_.average) + i * kBytes);

        std::uint64_t sum = (reads(kAlignedP) ? p : 0) ^ (reads(kAlignedG) ? g : 0);
        FO_UNROLL
        for (int k = 0; k < kState; ++k)
            if (reads(kAlignedState << k)) sum ^= state[k];

        const Word mask = Word(numbers_.mask);
        if (averages()) store(at<kBytes>(tensor_.average) + i * kBytes, Word(average ^ mask));
        FO_UNROLL
        for (int k = 0; k < kState; ++k)
            if (writes(kAlignedState << k)) store(at<kBytes>(own(k)) + i * kBytes, Word(state[k] ^ mask));
        if (writes(kAlignedP)) store_word(p_bytes, p_at, i, p ^ numbers_.mask);
        return sum;
    }

    FO_DEVICE bool reads(unsigned which) const { return numbers_.read & which; }
    FO_DEVICE bool writes(unsigned which) const { return numbers_.written & which; }
    FO_DEVICE bool touches(unsigned which) const { return (numbers_.read | numbers_.written) & which; }
    FO_DEVICE bool averages() const { return tensor_.average && writes(kAlignedAverage); }
    FO_DEVICE bool is_aligned16(unsigned which) const { return tensor_.aligned16_mask & which; }

    FO_DEVICE char* own(int k) const { return pointers_of<char>(tensor_)[k]; }

    template <int kItem, class Char>
    FO_DEVICE Char* at(Char* array) const {
        return array + begin_ * kItem;
    }

    const TensorDesc& tensor_;
    const ProbeArguments& numbers_;
    const std::int64_t begin_;
    double* const sums_;  // words, kept as what a block's shared memory is made of
};

template <class Word, int kState>
struct BandwidthProbe {
    static constexpr const char* name = "bandwidth probe";
    static constexpr int kThreads = kUpdateThreads;
    static constexpr int kBlocks = update_blocks<Word>(kState);
    static constexpr int kShared = kThreads;

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const auto& numbers = *reinterpret_cast<const ProbeArguments*>(arguments.bytes);
        double* const sums = block.shared;
        block.phase([&](int thread) { sums[thread] = 0; });
        for_each_chunk<Word>(block, arguments, [&](const TensorTable&, const TensorDesc& tensor, std::int64_t begin) {
            return LimitStretch<Word, kState>(tensor, numbers, begin, sums);
        });
        block.phase([](int) {});
        for (int width = kThreads / 2; width > 0; width /= 2)
            block.phase([&](int thread) {
                if (thread >= width) return;
                const auto word = bits<std::uint64_t>(sums[thread]) ^ bits<std::uint64_t>(sums[thread + width]);
                sums[thread] = bits<double>(word);
            });
        block.each([&](int thread) {
            if (thread == 0) numbers.answers[block.index()] = bits<std::uint64_t>(sums[0]);
        });
    }
};

}  // namespace fo::FO_TARGET
