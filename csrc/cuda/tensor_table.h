// The arguments of a kernel: plain data, laid out by the host, read by every thread.
#pragma once

#include "../prepare.h"
#include "memory.h"

namespace fo::FO_TARGET {

// One array in one launch.  Behind it stand the addresses of the rule's state arrays and constants.
struct TensorDesc {
    char* p;
    const char* g;
    char* average;
    std::int64_t size;
    std::uint32_t index;           // of the array in its plan
    std::uint32_t constants;       // of its update
    std::uint16_t aligned16_mask;  // which arrays the update may touch 16 bytes at once: p, g, the average, the state
    std::uint16_t sum_aligned16_mask;  // and which the sums, whose tiles begin where the array does
    std::uint8_t chunk_offset;         // the update's chunks begin as if the array did so many elements earlier
    Format p_format, g_format;
};

enum Aligned16 { kAlignedP = 1, kAlignedG = 2, kAlignedAverage = 4, kAlignedState = 8 };
static_assert(kAlignedState << kMaxState <= 1 << 16);

// The constants of one group's step.
template <class T>
struct alignas(16) KernelConstants {
    double clip_norm, clip_global_norm;
    alignas(16) std::byte rule[kRuleBytes];
    Prepare<T> prepare;
};

// The results of passes in device memory, by the array's index in its model; null where unused.
struct Workspace {
    double* partials;               // sums over each chunk of tiles, kMaxSums apart
    double* sums;                   // over each array, kMaxSums apart
    double* clips;                  // the factor of each gradient
    double* clipped_sq_norms;       // of each gradient after clip_norm
    double* bounds;                 // clip_global_norm
    double* norm;                   // of all gradients, where it is given
    std::int32_t* found_nonfinite;  // not 0 where some gradient is not finite
    std::byte* rules;               // those that are each array's own, kRuleBytes apart
};

// A kernel's parameters may be so large (CUDA 12.1, Volta) or 4096 bytes.
#if !defined(FO_ARGUMENT_BYTES)
#define FO_ARGUMENT_BYTES 32752
#endif

struct ArgumentsHead {
    const std::byte* constants;  // null: first in `bytes`
    const std::byte* table;      // null: in `bytes`, behind the constants
    Workspace workspace;
    std::uint32_t table_at;
    std::uint32_t tensors;
    std::uint32_t desc_bytes;
    std::uint32_t sums;  // how many an array
};

inline constexpr std::size_t kTableBytes = (FO_ARGUMENT_BYTES - sizeof(ArgumentsHead)) / 16 * 16 - 16;

struct alignas(16) Arguments : ArgumentsHead {
    alignas(16) std::byte bytes[kTableBytes];
};
static_assert(sizeof(Arguments) <= FO_ARGUMENT_BYTES);

// The table: where each tensor's chunks begin, of the update and of the sums, with the end behind the last; and the
// tensors.
class TensorTable {
  public:
    FO_DEVICE explicit TensorTable(const Arguments& arguments)
        : constants_(arguments.constants ? arguments.constants : arguments.bytes),
          begins_(reinterpret_cast<const std::uint32_t*>(arguments.table ? arguments.table
                                                                         : arguments.bytes + arguments.table_at)),
          count_(arguments.tensors),
          job_bytes_(arguments.desc_bytes) {}

    FO_DEVICE std::uint32_t count() const { return count_; }
    FO_DEVICE const std::uint32_t* update_begins() const { return begins_; }
    FO_DEVICE const std::uint32_t* sum_begins() const { return begins_ + count_ + 1; }

    FO_DEVICE const TensorDesc& tensor(std::uint32_t i) const {
        const auto* tensors = reinterpret_cast<const std::byte*>(begins_ + 2 * (count_ + 1));
        return *reinterpret_cast<const TensorDesc*>(tensors + std::size_t(i) * job_bytes_);
    }

    template <class T>
    FO_DEVICE const KernelConstants<T>& constants(const TensorDesc& tensor) const {
        return reinterpret_cast<const KernelConstants<T>*>(constants_)[tensor.constants];
    }

  private:
    const std::byte* constants_;
    const std::uint32_t* begins_;
    std::uint32_t count_, job_bytes_;
};

template <class T = char>
FO_DEVICE inline T* const* pointers_of(const TensorDesc& tensor) {
    return reinterpret_cast<T* const*>(&tensor + 1);
}

// The tensor of a chunk, which is in or behind tensor `from`: the last that begins no later.
FO_DEVICE inline std::uint32_t find(const std::uint32_t* begins, std::uint32_t from, std::uint32_t count,
                                    std::uint32_t chunk) {
    if (chunk < begins[from + 1]) return from;
    std::uint32_t end = count;
    while (end - from > 1) {
        const std::uint32_t middle = from + (end - from) / 2;
        if (begins[middle] <= chunk)
            from = middle;
        else
            end = middle;
    }
    return from;
}

}  // namespace fo::FO_TARGET
