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

// The first element is the lowest, so it decides.
FO_DEVICE inline bool is_empty(const ThreadItems& span) { return span.first >= span.high; }

// Load from an array in the compute type.  `aligned16`: load 16 bytes at once, as all elements exist and the address is
// aligned.  kEdges: some elements may not exist.
template <bool kEdges, class T>
FO_DEVICE inline void load_own(const char* array, const ThreadItems& span, bool aligned16, T* x) {
    if (aligned16) {
        FO_UNROLL
        for (int e = 0; e < kItemsPerThread; e += kGroup<T>) {
            const Vector vector = load<Vector>(array + place<T>(span, e) * int(sizeof(T)));
            std::memcpy(x + e, &vector, sizeof vector);
        }
    } else {
        FO_UNROLL
        for (int e = 0; e < kItemsPerThread; ++e)
            x[e] = !kEdges || has<T>(span, e) ? load<T>(array + place<T>(span, e) * int(sizeof(T))) : T(0);
    }
}

template <bool kEdges, class T>
FO_DEVICE inline void store_own(char* array, const ThreadItems& span, bool aligned16, const T* x) {
    if (aligned16) {
        FO_UNROLL
        for (int e = 0; e < kItemsPerThread; e += kGroup<T>) {
            Vector vector;
            std::memcpy(&vector, x + e, sizeof vector);
            store(array + place<T>(span, e) * int(sizeof(T)), vector);
        }
    } else {
        FO_UNROLL
        for (int e = 0; e < kItemsPerThread; ++e)
            if (!kEdges || has<T>(span, e)) store(array + place<T>(span, e) * int(sizeof(T)), x[e]);
    }
}

// Load from an array in a 16-bit format; a thread's elements are contiguous.  The bits are decoded in place later, so
// that no load waits for the conversion of another.
template <bool kEdges, class T>
FO_DEVICE inline void load_halves(const char* array, const ThreadItems& span, bool aligned16, T* x) {
    Vector vector{};
    if (aligned16) {
        vector = load<Vector>(array + span.first * 2);
    } else {
        FO_UNROLL
        for (int e = 0; e < kItemsPerThread; ++e)
            if (!kEdges || has<T>(span, e))
                vector.word[e / 2] |= std::uint32_t(load<std::uint16_t>(array + (span.first + e) * 2)) << e % 2 * 16;
    }
    std::memcpy(x, &vector, sizeof vector);
}

FO_DEVICE inline std::uint16_t half_of(const Vector& vector, int e) {
    return std::uint16_t(vector.word[e / 2] >> e % 2 * 16);
}

template <bool kEdges>
FO_DEVICE inline void store_halves(char* array, const ThreadItems& span, bool aligned16, const Vector& vector) {
    if (aligned16) {
        store(array + span.first * 2, vector);
    } else {
        FO_UNROLL
        for (int e = 0; e < kItemsPerThread; ++e)
            if (!kEdges || has<float>(span, e)) store(array + (span.first + e) * 2, half_of(vector, e));
    }
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
    FO_UNROLL
    for (int e = 0; e < kItemsPerThread; e += 4) {
        Vector vector{};
        if (aligned16) {
            vector = load<Vector>(array + (span.first + e) * 4);
        } else {
            FO_UNROLL
            for (int k = 0; k < 4; ++k)
                if (!kEdges || has<double>(span, e + k))
                    vector.word[k] = load<std::uint32_t>(array + (span.first + e + k) * 4);
        }
        x[e / 2] = pair(vector.word[0], vector.word[1]);
        x[e / 2 + 1] = pair(vector.word[2], vector.word[3]);
    }
}

// float64 gradients of float32 parameters, a rare case: rounded at once, because x has no space for their bits.
template <bool kEdges>
FO_DEVICE inline void load_doubles(const char* array, const ThreadItems& span, bool aligned16, float* x) {
    FO_UNROLL
    for (int e = 0; e < kItemsPerThread; e += 2) {
        double d[2] = {0, 0};
        if (aligned16) {
            const Vector vector = load<Vector>(array + (span.first + e) * 8);
            std::memcpy(d, &vector, sizeof vector);
        } else {
            if (!kEdges || has<float>(span, e)) d[0] = load<double>(array + (span.first + e) * 8);
            if (!kEdges || has<float>(span, e + 1)) d[1] = load<double>(array + (span.first + e + 1) * 8);
        }
        x[e] = float(d[0]);
        x[e + 1] = float(d[1]);
    }
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
