// The kernel that fills an array with normal random numbers.
#pragma once

#include "../random_bits.h"
#include "reduce.h"

namespace fo::FO_TARGET {

struct NoiseArguments {
    void* data;
    std::int64_t size;  // elements
    RandomKey key;
};

inline constexpr int kNoiseThreads = 128;

// A thread writes four consecutive elements.
template <class T>
struct FillNormal : Body<kNoiseThreads> {
    static constexpr const char* name = "normal random numbers";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const auto& work = *reinterpret_cast<const NoiseArguments*>(arguments.bytes);
        auto* const data = global<T>(work.data);
        block.each([&](int thread) {
            const std::int64_t step = std::int64_t(block.count()) * kNoiseThreads;
            for (std::int64_t i = std::int64_t(block.index()) * kNoiseThreads + thread; 4 * i < work.size; i += step)
                write_normal(work.key, i, data, work.size);
        });
    }
};

}  // namespace fo::FO_TARGET
