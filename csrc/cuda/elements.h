// The elements that a GPU thread processes at a time: loads, conversion between formats, and stores.
//
// Main type: ThreadItems, a thread's elements of a chunk.  Loads keep the bits as they are and conversions follow, so
// that no load waits for another one.  State and averages have the compute type; parameters and gradients any format.
#pragma once

#include "../formats.h"
#include "memory.h"

namespace fo::FO_TARGET {

inline constexpr int kItemsPerThread = 8;  // 16 bytes of a 16-bit format

// The number of elements of a compute type in 16 bytes.
template <class T>
inline constexpr int kGroup = 16 / int(sizeof(T));

// The number that is accessed at once, of so many elements of a thread.
template <class T, int kItems>
inline constexpr int kTogether = kItems < kGroup<T> ? kItems : kGroup<T>;

// A thread's elements of a chunk: groups of kGroup elements, `step` apart, those from `low` to `high`.
struct ThreadItems {
    std::int32_t first, step;
    std::int32_t low, high;
};

template <class T>
FO_DEVICE inline std::int32_t place(const ThreadItems& span, int e) {
    return span.first + e / kGroup<T> * span.step + e % kGroup<T>;
}

template <class T>
FO_DEVICE inline bool has(const ThreadItems& span, int e) {
    return place<T>(span, e) >= span.low && place<T>(span, e) < span.high;
}

template <class T, int kItems = kItemsPerThread>
FO_DEVICE inline bool has_all(const ThreadItems& span) {
    return span.first >= span.low && place<T>(span, kItems - 1) < span.high;
}

// Return whether all elements of the group that begins with e exist.
template <class T, int kItems = kItemsPerThread>
FO_DEVICE inline bool has_group(const ThreadItems& span, int e) {
    return place<T>(span, e) >= span.low && place<T>(span, e + kTogether<T, kItems> - 1) < span.high;
}

// The first element is the lowest, so it decides.
FO_DEVICE inline bool is_empty(const ThreadItems& span) { return span.first >= span.high; }

// So many words of 32 bits, which are accessed at once.
template <int kCount>
struct alignas(4 * kCount) Packed {
    std::uint32_t word[kCount];
};

// The words of a group in the compute type.
template <class T, int kItems>
using OwnWords = Packed<kTogether<T, kItems>* int(sizeof(T)) / 4>;

// Copy the bits of elements as they are stored into the memory of the elements, or back.
template <class T, int kItems>
FO_DEVICE inline void keep_bits(const Vector& vector, T (&x)[kItems]) {
    std::memcpy(x, &vector, sizeof x < sizeof vector ? sizeof x : sizeof vector);
}

template <class T, int kItems>
FO_DEVICE inline Vector bits_of(const T (&x)[kItems]) {
    Vector vector{};
    std::memcpy(&vector, x, sizeof x < sizeof vector ? sizeof x : sizeof vector);
    return vector;
}

// Call whole(e) for each group of elements that exists and is accessed at once, as `aligned16` permits; otherwise
// one(e) for each element.  With kEdges that includes groups of which only some elements exist, without it none of
// those.
template <bool kEdges, class T, int kItems, class Whole, class One>
FO_DEVICE inline void for_groups(const ThreadItems& span, bool aligned16, Whole whole, One one) {
    FO_UNROLL
    for (int e = 0; e < kItems; e += kTogether<T, kItems>) {
        const bool exists = has_group<T, kItems>(span, e);
        if (aligned16 && exists) {
            whole(e);
        } else {
            FO_UNROLL
            for (int k = e; k < e + kTogether<T, kItems>; ++k)
                if (kEdges ? has<T>(span, k) : exists) one(k);
        }
    }
}

template <class T, int kItems>
FO_DEVICE inline void set_to_zero(T (&x)[kItems]) {
    FO_UNROLL
    for (int e = 0; e < kItems; ++e) x[e] = T(0);
}

// Load from an array in the compute type; elements that do not exist are 0.
template <bool kEdges, class T, int kItems>
FO_DEVICE inline void load_own(const char* array, const ThreadItems& span, bool aligned16, T (&x)[kItems]) {
    const auto at = [=](int e) { return array + place<T>(span, e) * int(sizeof(T)); };
    set_to_zero(x);
    for_groups<kEdges, T, kItems>(
        span, aligned16,
        [&](int e) {
            const auto words = load<OwnWords<T, kItems>>(at(e));
            std::memcpy(x + e, &words, sizeof words);
        },
        [&](int e) { x[e] = load<T>(at(e)); });
}

template <bool kEdges, class T, int kItems>
FO_DEVICE inline void store_own(char* array, const ThreadItems& span, bool aligned16, const T (&x)[kItems]) {
    const auto at = [=](int e) { return array + place<T>(span, e) * int(sizeof(T)); };
    for_groups<kEdges, T, kItems>(
        span, aligned16,
        [&](int e) {
            OwnWords<T, kItems> words;
            std::memcpy(&words, x + e, sizeof words);
            store(at(e), words);
        },
        [&](int e) { store(at(e), x[e]); });
}

// Load from an array in a 16-bit format.  The bits are decoded in place later, so that no load waits for the conversion
// of another.
template <bool kEdges, class T, int kItems>
FO_DEVICE inline void load_halves(const char* array, const ThreadItems& span, bool aligned16, T (&x)[kItems]) {
    const auto at = [=](int e) { return array + place<T>(span, e) * 2; };
    Vector vector{};
    for_groups<kEdges, T, kItems>(
        span, aligned16,
        [&](int e) {
            const auto words = load<Packed<kTogether<T, kItems> / 2>>(at(e));
            std::memcpy(vector.word + e / 2, &words, sizeof words);
        },
        [&](int e) { vector.word[e / 2] |= std::uint32_t(load<std::uint16_t>(at(e))) << e % 2 * 16; });
    keep_bits(vector, x);
}

FO_DEVICE inline std::uint16_t half_of(const Vector& vector, int e) {
    return std::uint16_t(vector.word[e / 2] >> e % 2 * 16);
}

template <bool kEdges, class T, int kItems>
FO_DEVICE inline void store_halves(char* array, const ThreadItems& span, bool aligned16, const Vector& vector) {
    const auto at = [=](int e) { return array + place<T>(span, e) * 2; };
    for_groups<kEdges, T, kItems>(
        span, aligned16,
        [&](int e) {
            Packed<kTogether<T, kItems> / 2> words;
            std::memcpy(&words, vector.word + e / 2, sizeof words);
            store(at(e), words);
        },
        [&](int e) { store(at(e), half_of(vector, e)); });
}

// float32 gradients of float64 parameters: two numbers are packed into each of the first elements of x.
FO_DEVICE inline double pair(std::uint32_t low, std::uint32_t high) {
    return bits<double>(std::uint64_t(high) << 32 | low);
}

FO_DEVICE inline float half_of(double pair, int which) {
    return bits<float>(std::uint32_t(bits<std::uint64_t>(pair) >> which * 32));
}

template <bool kEdges, int kItems>
FO_DEVICE inline void load_floats(const char* array, const ThreadItems& span, bool aligned16, double (&x)[kItems]) {
    const auto at = [=](int e) { return array + place<double>(span, e) * 4; };
    std::uint32_t words[kItems] = {};
    for_groups<kEdges, double, kItems>(
        span, aligned16,
        [&](int e) {
            const auto both = load<Packed<2>>(at(e));
            words[e] = both.word[0], words[e + 1] = both.word[1];
        },
        [&](int e) { words[e] = load<std::uint32_t>(at(e)); });
    FO_UNROLL
    for (int e = 0; e < kItems; e += 2) x[e / 2] = pair(words[e], words[e + 1]);
}

// float64 gradients of float32 parameters, a rare case: rounded at once, because x has no space for their bits.
template <bool kEdges, int kItems>
FO_DEVICE inline void load_doubles(const char* array, const ThreadItems& span, bool aligned16, float (&x)[kItems]) {
    const auto at = [=](int e) { return array + place<float>(span, e) * 8; };
    set_to_zero(x);
    for_groups<kEdges, float, kItems>(
        span, aligned16,
        [&](int e) {
            FO_UNROLL
            for (int k = e; k < e + kTogether<float, kItems>; k += 2) {
                const Vector vector = load<Vector>(at(k));
                double d[2];
                std::memcpy(d, &vector, sizeof vector);
                x[k] = float(d[0]), x[k + 1] = float(d[1]);
            }
        },
        [&](int e) { x[e] = float(load<double>(at(e))); });
}

template <bool kEdges, class T, int kItems>
FO_DEVICE inline void load_as_is(Format format, const char* array, const ThreadItems& span, bool aligned16,
                                 T (&x)[kItems]) {
    if (format == kComputeFormat<T>)
        load_own<kEdges>(array, span, aligned16, x);
    else if (format == Format::kFloat16 || format == Format::kBfloat16)
        load_halves<kEdges>(array, span, aligned16, x);
    else if constexpr (sizeof(T) == 8)
        load_floats<kEdges>(array, span, aligned16, x);
    else
        load_doubles<kEdges>(array, span, aligned16, x);
}

template <class Kind, class T, int kItems>
FO_DEVICE inline void decode_halves(T (&x)[kItems]) {
    const Vector vector = bits_of(x);
    FO_UNROLL
    for (int e = 0; e < kItems; ++e) x[e] = Kind::template decode<T>(half_of(vector, e));
}

template <class T, int kItems>
FO_DEVICE inline void decode(Format format, T (&x)[kItems]) {
    if (format == kComputeFormat<T>) return;
    if (format == Format::kFloat16) {
        decode_halves<Float16>(x);
    } else if (format == Format::kBfloat16) {
        decode_halves<Bfloat16>(x);
    } else if constexpr (sizeof(T) == 8) {
        FO_UNROLL
        for (int e = kItems - 1; e >= 0; --e) x[e] = half_of(x[e / 2], e % 2);
    }
}

template <class Kind, int kItems>
FO_DEVICE inline Vector encode_halves(const float (&x)[kItems]) {
    Vector vector{};
    FO_UNROLL
    for (int e = 0; e < kItems; ++e) vector.word[e / 2] |= std::uint32_t(Kind::encode(x[e])) << e % 2 * 16;
    return vector;
}

// Store a parameter.  The compute type is float64 only for float64 parameters.
template <bool kEdges, class T, int kItems>
FO_DEVICE inline void encode_and_store(Format format, char* array, const ThreadItems& span, bool aligned16,
                                       const T (&x)[kItems]) {
    if constexpr (sizeof(T) == 8)
        store_own<kEdges>(array, span, aligned16, x);
    else if (format == Format::kFloat32)
        store_own<kEdges>(array, span, aligned16, x);
    else
        store_halves<kEdges, T, kItems>(
            array, span, aligned16,
            format == Format::kFloat16 ? encode_halves<Float16>(x) : encode_halves<Bfloat16>(x));
}

template <class T>
FO_DEVICE inline std::uint16_t encode_half(Format format, T x) {
    return format == Format::kFloat16 ? Float16::encode(x) : Bfloat16::encode(x);
}

// Store a copy of a parameter in a format of 16 bits, whose address need not be aligned.
template <bool kEdges, class T, int kItems>
FO_DEVICE inline void store_copy(Format format, char* array, const ThreadItems& span, const T (&x)[kItems]) {
    Vector halves{};
    FO_UNROLL
    for (int e = 0; e < kItems; ++e) halves.word[e / 2] |= std::uint32_t(encode_half(format, x[e])) << e % 2 * 16;
    const auto first = reinterpret_cast<std::uintptr_t>(array + place<T>(span, 0) * 2);
    store_halves<kEdges, T, kItems>(array, span, first % (2 * kTogether<T, kItems>) == 0, halves);
}

// Load one element of any format.
template <class T>
FO_DEVICE inline T load_one(Format format, const char* array, std::int32_t i) {
    if (format == kComputeFormat<T>) return load<T>(array + i * int(sizeof(T)));
    if (format == Format::kFloat16) return Float16::decode<T>(load<std::uint16_t>(array + i * 2));
    if (format == Format::kBfloat16) return Bfloat16::decode<T>(load<std::uint16_t>(array + i * 2));
    if constexpr (sizeof(T) == 8) return load<float>(array + i * 4);
    return T(load<double>(array + i * 8));
}

template <class T>
FO_DEVICE inline void store_one(Format format, char* array, std::int32_t i, T x) {
    if constexpr (sizeof(T) == 8)
        store(array + i * 8, x);
    else if (format == Format::kFloat32)
        store(array + i * 4, x);
    else
        store(array + i * 2, format == Format::kFloat16 ? Float16::encode(x) : Bfloat16::encode(x));
}

}  // namespace fo::FO_TARGET
