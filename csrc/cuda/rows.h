// The kernels that copy rows between arrays and dense buffers, and that add the gradients of each row.
#pragma once

#include "reduce.h"

namespace fo::FO_TARGET {

inline constexpr int kRowThreads = 256;
inline constexpr std::int64_t kRowChunk = 4 * kRowThreads;  // units of a block

// Some rows of an array, and a dense buffer for them.  A unit is `unit_bytes` bytes of a copy, or an element of a sum.
struct RowJob {
    char* array;
    char* buffer;
    const std::int64_t* rows;    // of the array: one for each row of the buffer, or those that are added
    const std::int64_t* begins;  // of sums: where those of each row begin, and the end
    std::int64_t size;           // units of the buffer
    std::int64_t row_size;       // units of a row
    std::int32_t unit_bytes;
    Format format;
};

// The jobs of one launch, in its arguments.
struct RowJobs {
    static constexpr std::size_t kMost =
        (kTableBytes - 2 * sizeof(std::int64_t)) / (sizeof(RowJob) + sizeof(std::uint32_t));

    RowJob jobs[kMost];
    std::uint32_t begins[kMost + 1];  // the first chunk of each, and the number of chunks
};
static_assert(sizeof(RowJobs) <= kTableBytes);

// Call f(job, at, row, in_row) for each unit `at` of the buffers.
template <class Block, class F>
FO_DEVICE inline void for_units(Block& block, const Arguments& arguments, F f) {
    const auto& list = *reinterpret_cast<const RowJobs*>(arguments.bytes);
    std::uint32_t i = 0;
    for (std::uint32_t chunk = block.index(); chunk < list.begins[arguments.tensors]; chunk += block.count()) {
        i = find(list.begins, i, arguments.tensors, chunk);
        const RowJob& job = list.jobs[i];
        const std::int64_t begin = std::int64_t(chunk - list.begins[i]) * kRowChunk;
        const std::int64_t end = begin + kRowChunk < job.size ? begin + kRowChunk : job.size;
        block.each([&](int thread) {
            for (std::int64_t at = begin + thread; at < end; at += kRowThreads) {
                const std::int64_t row = at / job.row_size;
                f(job, at, row, at - row * job.row_size);
            }
        });
    }
}

FO_DEVICE inline std::int64_t entry(const std::int64_t* indices, std::int64_t i) {
    return load<std::int64_t>(reinterpret_cast<const char*>(indices + i));
}

// Copies rows to the buffer, or back.
template <bool kToBuffer>
struct CopyRows : Body<kRowThreads> {
    static constexpr const char* name = kToBuffer ? "copy of rows" : "copy of rows back";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        for_units(block, arguments, [](const RowJob& job, std::int64_t at, std::int64_t row, std::int64_t in_row) {
            char* const there = job.array + (entry(job.rows, row) * job.row_size + in_row) * job.unit_bytes;
            char* const here = job.buffer + at * job.unit_bytes;
            switch (job.unit_bytes) {
                case 16: return copy<Vector>(kToBuffer ? here : there, kToBuffer ? there : here);
                case 8: return copy<std::uint64_t>(kToBuffer ? here : there, kToBuffer ? there : here);
                case 4: return copy<std::uint32_t>(kToBuffer ? here : there, kToBuffer ? there : here);
                case 2: return copy<std::uint16_t>(kToBuffer ? here : there, kToBuffer ? there : here);
                default: return copy<std::uint8_t>(kToBuffer ? here : there, kToBuffer ? there : here);
            }
        });
    }

  private:
    template <class Unit>
    FO_DEVICE static void copy(char* to, const char* from) {
        store(to, load<Unit>(from));
    }
};

// Adds the gradients of each row in the order of their positions, in the compute type.
template <class T>
struct AddRows : Body<kRowThreads> {
    static constexpr const char* name = "gradients of rows";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        for_units(block, arguments, [](const RowJob& job, std::int64_t at, std::int64_t row, std::int64_t in_row) {
            const auto gradient = [&](std::int64_t i) {
                const std::int64_t element = entry(job.rows, i) * job.row_size + in_row;
                return load_one<T>(job.format, job.array + element * std::int64_t(item_size(job.format)), 0);
            };
            const std::int64_t begin = entry(job.begins, row), end = entry(job.begins, row + 1);
            T sum = gradient(begin);
            for (std::int64_t i = begin + 1; i < end; ++i) sum = sum + gradient(i);
            store(job.buffer + at * std::int64_t(sizeof(T)), sum);
        });
    }
};

}  // namespace fo::FO_TARGET
