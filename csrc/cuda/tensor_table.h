// The arguments of a kernel: plain data that the host writes and every thread reads.
//
// Main types: TensorDesc, one array; KernelConstants, the constants of a step; Workspace, the results of passes;
// Arguments, all of it; TensorTable, the reader of the table of arrays.  tensor_list.cpp writes the table.
#pragma once

#include "../prepare.h"
#include "memory.h"

namespace fo::FO_TARGET {

// One array in one launch.  The addresses of the rule's state arrays and scalar state follow it in the table.
struct TensorDesc {
    char* p;
    const char* g;
    char* average;
    char* copy;
    std::int64_t size;
    std::uint32_t index;               // of the array in its model
    std::uint32_t constants;           // index of its KernelConstants
    std::uint16_t aligned16_mask;      // arrays that the update accesses 16 bytes at once: p, g, average, state
    std::uint16_t sum_aligned16_mask;  // the same for reductions, whose tiles begin at element 0
    std::uint8_t chunk_offset;         // the update's chunks begin this many elements before the array
    Format p_format, g_format, copy_format;
};

// The rows of a tensor, for rules with a number for each row.
struct RowDesc {
    char* numbers;
    std::int64_t count, size;  // rows that are updated; elements of one
    Axes order;                // of the elements in C order, with strides in elements; no axes if they are dense
};

enum Aligned16 {
    kAlignedP = 1,
    kAlignedG = 2,
    kAlignedAverage = 4,
    kAlignedState = 8,
    kAlignedExtra = kAlignedState << kMaxState
};
static_assert(kAlignedExtra < 1 << 16);

// What a launch over staged arrays (staged.h) needs besides.  It follows the addresses of the scalar state, and is
// followed by an address of scales for each state array.
struct StagedDesc {
    char* extra;
    const std::int64_t* rows;  // of the parameter, where the arrays are buffers of these; null for whole arrays
    std::int64_t row_size;
    std::uint32_t random_param;
    Extra extra_kind;
    Compression compression[kMaxState];
};

// The constants of one group's step.
template <class T>
struct alignas(16) KernelConstants {
    double clip_norm, clip_global_norm, clip_eps;
    NormType norm_type;
    bool rounds_randomly;
    std::uint64_t seed, t;  // of the random numbers
    alignas(16) std::byte rule[kRuleBytes];
    Prepare<T> prepare;
    Finish<T> finish;
};

// A bound of the norm of all gradients, and what is added to that norm.
struct GlobalBound {
    double bound, eps;
};

// The results of passes in device memory, indexed by the array's index in its model; null if unused.
struct Workspace {
    double* partials;               // sums over each chunk of tiles, kMaxSums apart
    double* sums;                   // over each array, kMaxSums apart
    double* clips;                  // the factor of each gradient
    double* clipped_norms;          // of each gradient after clip_norm
    GlobalBound* bounds;            // clip_global_norm
    double* norm;                   // of all gradients, if the host has computed it
    std::int32_t* found_nonfinite;  // not 0 if some gradient is not finite; for kernels that write state, if they skip
    std::uint64_t* agreeing;        // elements of a cautious step that agree with the gradient
    bool counts;                    // whether an update only counts these
    std::byte* rules;               // rules with an array's own constants, kRuleBytes apart
};

// The run-time library copies all arguments at each launch.  CUDA before 12.1 allowed 4096 bytes, and drivers before 13
// may fail to capture more.
#if !defined(FO_ARGUMENT_BYTES)
#define FO_ARGUMENT_BYTES 4096
#endif

struct ArgumentsHead {
    const std::byte* constants;  // null: at the beginning of `bytes`
    const std::byte* table;      // null: in `bytes`, after the constants
    Workspace workspace;
    std::uint32_t table_at;
    std::uint32_t tensors;
    std::uint32_t desc_bytes;
    std::uint32_t sums;  // the number for each array
    NormType norm_type;  // of all gradients
};

inline constexpr std::size_t kTableBytes = (FO_ARGUMENT_BYTES - sizeof(ArgumentsHead)) / 16 * 16 - 16;

struct alignas(16) Arguments : ArgumentsHead {
    alignas(16) std::byte bytes[kTableBytes];
};
static_assert(sizeof(Arguments) <= FO_ARGUMENT_BYTES);

// The arguments of an upload, which a graph never contains: as many bytes as CUDA 12.1 allows on Volta and later.
inline constexpr std::size_t kUploadBytes = 8 * FO_ARGUMENT_BYTES - 64;

struct alignas(16) UploadArguments {
    std::byte* to;
    std::uint32_t vectors;
    alignas(16) std::byte bytes[kUploadBytes];
};
static_assert(sizeof(UploadArguments) <= 32764);

// Return whether the step is skipped: what changes parameters or state then writes nothing.
FO_DEVICE inline bool is_skipped(const Arguments& arguments) {
    const std::int32_t* found = arguments.workspace.found_nonfinite;
    return found && *found != 0;
}

// The table of a launch: the first chunk of each tensor, first for the update, then for reductions, each with the total
// at the end; then the tensors.
class TensorTable {
  public:
    FO_DEVICE explicit TensorTable(const Arguments& arguments)
        : constants_(arguments.constants ? arguments.constants : arguments.bytes),
          begins_(reinterpret_cast<const std::uint32_t*>(arguments.table ? arguments.table
                                                                         : arguments.bytes + arguments.table_at)),
          count_(arguments.tensors),
          desc_bytes_(arguments.desc_bytes) {}

    FO_DEVICE std::uint32_t count() const { return count_; }
    FO_DEVICE const std::uint32_t* update_begins() const { return begins_; }
    FO_DEVICE const std::uint32_t* sum_begins() const { return begins_ + count_ + 1; }

    FO_DEVICE const TensorDesc& tensor(std::uint32_t i) const {
        const auto* tensors = reinterpret_cast<const std::byte*>(begins_ + 2 * (count_ + 1));
        return *reinterpret_cast<const TensorDesc*>(tensors + std::size_t(i) * desc_bytes_);
    }

    template <class T>
    FO_DEVICE const KernelConstants<T>& constants(const TensorDesc& tensor) const {
        return reinterpret_cast<const KernelConstants<T>*>(constants_)[tensor.constants];
    }

  private:
    const std::byte* constants_;
    const std::uint32_t* begins_;
    std::uint32_t count_, desc_bytes_;
};

template <class T = char>
FO_DEVICE inline T* const* pointers_of(const TensorDesc& tensor) {
    return reinterpret_cast<T* const*>(&tensor + 1);
}

// Return the tensor of a chunk, by binary search from tensor `from` on: the last one that begins no later.
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
