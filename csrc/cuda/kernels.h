// The kernels, as the launcher sees them.
#pragma once

#include "device.h"
#include "tensor_table.h"

#include <array>

namespace fo::FO_TARGET {

// `what`, `rule` and `type` name it in errors.
template <class Takes>
struct KernelOf {
    // Returns a cudaError_t.
    using Launch = int (*)(const cuda::Stream&, const Takes&, std::uint32_t blocks);

    Launch launch = nullptr;
    const char* what = nullptr;
    const char* rule = nullptr;
    const char* type = nullptr;
};

using Kernel = KernelOf<Arguments>;

// The kernels of one rule in one compute type; those that it does not need have no launch function.
struct RuleKernels {
    Kernel update, before_reduce, reduce, reduce_rows, finalize;
};

// Norms of gradients by compute type (float32, float64), and their sums by NormType, too.
struct CommonKernels {
    std::array<std::array<Kernel, 3>, 2> sum_gradients;
    std::array<Kernel, 2> finish_gradients;
    Kernel sum_scaled_f64, finish_scaled_f64;
    Kernel finish, clip_all, add_all;
    KernelOf<UploadArguments> put;
    std::array<Kernel, 2> fill_normal;  // by compute type
    std::array<Kernel, 2> copy_rows;    // back, to the buffer
    std::array<Kernel, 2> add_rows;     // by compute type
};

// The rules are divided among several sources, which are compiled at the same time: rule I is in source I % kParts.
// Kernels for staged arrays (staged.h) are in sources of their own.
inline constexpr int kParts = 4;
RuleKernels kernels_of_0(int rule, bool is_double);
RuleKernels kernels_of_1(int rule, bool is_double);
RuleKernels kernels_of_2(int rule, bool is_double);
RuleKernels kernels_of_3(int rule, bool is_double);
RuleKernels staged_kernels_of_0(int rule, bool is_double);
RuleKernels staged_kernels_of_1(int rule, bool is_double);
RuleKernels staged_kernels_of_2(int rule, bool is_double);
RuleKernels staged_kernels_of_3(int rule, bool is_double);

inline RuleKernels kernels_of(int rule, bool is_double) {
    constexpr std::array parts{&kernels_of_0, &kernels_of_1, &kernels_of_2, &kernels_of_3};
    static_assert(parts.size() == kParts);
    return parts[std::size_t(rule % kParts)](rule, is_double);
}

// Only the update and the reduction, if there is one.
inline RuleKernels staged_kernels_of(int rule, bool is_double) {
    constexpr std::array parts{&staged_kernels_of_0, &staged_kernels_of_1, &staged_kernels_of_2, &staged_kernels_of_3};
    static_assert(parts.size() == kParts);
    return parts[std::size_t(rule % kParts)](rule, is_double);
}

CommonKernels common_kernels();

// The kernels of sums over rows and columns, by compute type where they have one.
struct AxisKernels {
    std::array<std::array<Kernel, 2>, 2> sum;  // the squares of elements; the largest ones
    std::array<Kernel, 2> finish;              // the same
    Kernel add_groups;
    std::array<Kernel, 2> update_moments, row_factors;
    Kernel clip_factors;
    std::array<Kernel, 2> clip_units;
};

AxisKernels axis_kernels();

}  // namespace fo::FO_TARGET
