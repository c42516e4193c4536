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

template <class T>
FO_DEVICE inline bool has_all(const ThreadItems& span) {
    return span.first >= span.low && place<T>(span, kItemsPerThread - 1) < span.high;
}

// Return whether all elements of the group that begins with e exist.
template <class T>
FO_DEVICE inline bool has_group(const ThreadItems& span, int e) {
    return place<T>(span, e) >= span.low && place<T>(span, e + kGroup<T> - 1) < span.high;
}

// The first element is the lowest, so it decides.
FO_DEVICE inline bool is_empty(const ThreadItems& span) { return span.first >= span.high; }

// So many words of 32 bits, which are accessed at once.
template <int kCount>
struct alignas(4 * kCount) Packed {
    std::uint32_t word[kCount];
};

// Call whole(e) for each group of elements that exists and is accessed at once, as `aligned16` permits; otherwise
// one(e) for each element.  With kEdges that includes groups of which only some elements exist, without it none of
// those.
template <bool kEdges, class T, class Whole, class One>
FO_DEVICE inline void for_groups(const ThreadItems& span, bool aligned16, Whole whole, One one) {
    FO_UNROLL
    for (int e = 0; e < kItemsPerThread; e += kGroup<T>) {
        const bool exists = has_group<T>(span, e);
        if (aligned16 && exists) {
            whole(e);
        } else {
            FO_UNROLL
            for (int k = e; k < e + kGroup<T>; ++k)
                if (kEdges ? has<T>(span, k) : exists) one(k);
        }
    }
}

template <class T>
FO_DEVICE inline void set_to_zero(T* x) {
    FO_UNROLL
    for (int e = 0; e < kItemsPerThread; ++e) x[e] = T(0);
}

// Load from an array in the compute type; elements that do not exist are 0.
template <bool kEdges, class T>
FO_DEVICE inline void load_own(const char* array, const ThreadItems& span, bool aligned16, T* x) {
    const auto at = [=](int e) { return array + place<T>(span, e) * int(sizeof(T)); };
    set_to_zero(x);
    for_groups<kEdges, T>(
        span, aligned16,
        [&](int e) {
            const Vector vector = load<Vector>(at(e));
            std::memcpy(x + e, &vector, sizeof vector);
        },
        [&](int e) { x[e] = load<T>(at(e)); });
}

template <bool kEdges, class T>
FO_DEVICE inline void store_own(char* array, const ThreadItems& span, bool aligned16, const T* x) {
    const auto at = [=](int e) { return array + place<T>(span, e) * int(sizeof(T)); };
    for_groups<kEdges, T>(
        span, aligned16,
        [&](int e) {
            Vector vector;
            std::memcpy(&vector, x + e, sizeof vector);
            store(at(e), vector);
        },
        [&](int e) { store(at(e), x[e]); });
}

// Load from an array in a 16-bit format.  The bits are decoded in place later, so that no load waits for the conversion
// of another.
template <bool kEdges, class T>
FO_DEVICE inline void load_halves(const char* array, const ThreadItems& span, bool aligned16, T* x) {
    const auto at = [=](int e) { return array + place<T>(span, e) * 2; };
    Vector vector{};
    for_groups<kEdges, T>(
        span, aligned16,
        [&](int e) {
            const auto words = load<Packed<kGroup<T> / 2>>(at(e));
            std::memcpy(vector.word + e / 2, &words, sizeof words);
        },
        [&](int e) { vector.word[e / 2] |= std::uint32_t(load<std::uint16_t>(at(e))) << e % 2 * 16; });
    std::memcpy(x, &vector, sizeof vector);
}

FO_DEVICE inline std::uint16_t half_of(const Vector& vector, int e) {
    return std::uint16_t(vector.word[e / 2] >> e % 2 * 16);
}

// Only parameters are stored in a 16-bit format, and then the compute type is float32.
template <bool kEdges>
FO_DEVICE inline void store_halves(char* array, const ThreadItems& span, bool aligned16, const Vector& vector) {
    const auto at = [=](int e) { return array + place<float>(span, e) * 2; };
    for_groups<kEdges, float>(
        span, aligned16, [&](int e) { store(at(e), Packed<2>{{vector.word[e / 2], vector.word[e / 2 + 1]}}); },
        [&](int e) { store(at(e), half_of(vector, e)); });
}

// float32 gradients of float64 parameters: two numbers are packed into each of the first elements of x.
FO_DEVICE inline double pair(std::uint32_t low, std::uint32_t high) {
    return bits<double>(std::uint64_t(high) << 32 | low);
}

FO_DEVICE inline float half_of(double pair, int which) {
    return bits<float>(std::uint32_t(bits<std::uint64_t>(pair) >> which * 32));
}

template <bool kEdges>
FO_DEVICE inline void load_floats(const char* array, const ThreadItems& span, bool aligned16, double* x) {
    const auto at = [=](int e) { return array + place<double>(span, e) * 4; };
    std::uint32_t words[kItemsPerThread] = {};
    for_groups<kEdges, double>(
        span, aligned16,
        [&](int e) {
            const auto both = load<Packed<2>>(at(e));
            words[e] = both.word[0], words[e + 1] = both.word[1];
        },
        [&](int e) { words[e] = load<std::uint32_t>(at(e)); });
    FO_UNROLL
    for (int e = 0; e < kItemsPerThread; e += 2) x[e / 2] = pair(words[e], words[e + 1]);
}

// float64 gradients of float32 parameters, a rare case: rounded at once, because x has no space for their bits.
template <bool kEdges>
FO_DEVICE inline void load_doubles(const char* array, const ThreadItems& span, bool aligned16, float* x) {
    const auto at = [=](int e) { return array + place<float>(span, e) * 8; };
    set_to_zero(x);
    for_groups<kEdges, float>(
        span, aligned16,
        [&](int e) {
            FO_UNROLL
            for (int k = e; k < e + kGroup<float>; k += 2) {
                const Vector vector = load<Vector>(at(k));
                double d[2];
                std::memcpy(d, &vector, sizeof vector);
                x[k] = float(d[0]), x[k + 1] = float(d[1]);
            }
        },
        [&](int e) { x[e] = float(load<double>(at(e))); });
}

template <bool kEdges, class T>
FO_DEVICE inline void load_as_is(Format format, const char* array, const ThreadItems& span, bool aligned16, T* x) {
    if (format == kComputeFormat<T>)
        load_own<kEdges>(array, span, aligned16, x);
    else if (format == Format::kFloat16 || format == Format::kBfloat16)
        load_halves<kEdges>(array, span, aligned16, x);
    else if constexpr (sizeof(T) == 8)
        load_floats<kEdges>(array, span, aligned16, x);
    else
        load_doubles<kEdges>(array, span, aligned16, x);
}

template <class Kind, class T>
FO_DEVICE inline void decode_halves(T* x) {
    Vector vector;
    std::memcpy(&vector, x, sizeof vector);
    FO_UNROLL
    for (int e = 0; e < kItemsPerThread; ++e) x[e] = Kind::template decode<T>(half_of(vector, e));
}

template <class T>
FO_DEVICE inline void decode(Format format, T* x) {
    if (format == kComputeFormat<T>) return;
    if (format == Format::kFloat16) {
        decode_halves<Float16>(x);
    } else if (format == Format::kBfloat16) {
        decode_halves<Bfloat16>(x);
    } else if constexpr (sizeof(T) == 8) {
        FO_UNROLL
        for (int e = kItemsPerThread - 1; e >= 0; --e) x[e] = half_of(x[e / 2], e % 2);
    }
}

template <class Kind>
FO_DEVICE inline Vector encode_halves(const float* x) {
    Vector vector{};
    FO_UNROLL
    for (int e = 0; e < kItemsPerThread; ++e) vector.word[e / 2] |= std::uint32_t(Kind::encode(x[e])) << e % 2 * 16;
    return vector;
}

// Store a parameter.  The compute type is float64 only for float64 parameters.
template <bool kEdges, class T>
FO_DEVICE inline void encode_and_store(Format format, char* array, const ThreadItems& span, bool aligned16,
                                       const T* x) {
    if constexpr (sizeof(T) == 8)
        store_own<kEdges>(array, span, aligned16, x);
    else if (format == Format::kFloat32)
        store_own<kEdges>(array, span, aligned16, x);
    else
        store_halves<kEdges>(array, span, aligned16,
                             format == Format::kFloat16 ? encode_halves<Float16>(x) : encode_halves<Bfloat16>(x));
}

template <class T>
FO_DEVICE inline std::uint16_t encode_half(Format format, T x) {
    return format == Format::kFloat16 ? Float16::encode(x) : Bfloat16::encode(x);
}

// Store the groups that exist of a copy of a parameter, in a format of 16 bits, at once where the address is aligned.
template <class T>
FO_DEVICE inline void store_copy(Format format, char* array, const ThreadItems& span, const T* x) {
    using Group = std::conditional_t<sizeof(T) == 8, std::uint32_t, std::uint64_t>;
    static_assert(sizeof(Group) == 2 * kGroup<T>);
    FO_UNROLL
    for (int first = 0; first < kItemsPerThread; first += kGroup<T>) {
        if (!has_group<T>(span, first)) continue;
        Group group = 0;
        FO_UNROLL
        for (int e = 0; e < kGroup<T>; ++e) group |= Group(encode_half(format, x[first + e])) << 16 * e;
        char* const to = array + place<T>(span, first) * 2;
        if (reinterpret_cast<std::uintptr_t>(to) % sizeof group == 0) {
            store(to, group);
        } else {
            FO_UNROLL
            for (int e = 0; e < kGroup<T>; ++e) store(to + 2 * e, std::uint16_t(group >> 16 * e));
        }
    }
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
