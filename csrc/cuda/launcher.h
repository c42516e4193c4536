// Launches kernels on a stream, with their tables and constants either in the kernel's arguments or in device memory.
#pragma once

#include "kernels.h"
#include "noise.h"
#include "rows.h"
#include "tensor_list.h"

#include <vector>

namespace fo::cuda {

// Which kernels step an array.  `is_staged`: those of staged.h.
struct KernelKind {
    int rule;
    bool is_double, is_staged;

    auto operator<=>(const KernelKind&) const = default;
};

// The arrays of one kind, which one launch steps.  Their table is in the arguments unless it is on the device.
struct KernelGroup : KernelKind {
    std::vector<Item> items;
    TensorList list;
    const std::byte* on_device = nullptr;
};

// The constants of a kernel group: bytes for the arguments, or where they are in device memory.
struct LaunchConstants {
    std::span<const std::byte> in_arguments;
    const std::byte* on_device = nullptr;
};

inline std::uint32_t blocks_for(std::uint32_t items, std::uint32_t each) { return (items + each - 1) / each; }

class Launcher {
  public:
    void set_stream(const Stream& stream) { stream_ = stream; }
    const Stream& stream() const { return stream_; }

    // Copy bytes to device memory in the stream's order, without waiting.
    void upload(std::byte* to, std::span<const std::byte> bytes);

    // Launch a kernel over the arrays of a group.  `sums` is the number of sums of each array.
    void launch(const FO_TARGET::Kernel& kernel, const KernelGroup& group, const LaunchConstants& constants,
                const FO_TARGET::Workspace& workspace, std::uint32_t blocks, int sums = 0);

    // Launch a kernel over the workspace of so many parameters.
    void launch(const FO_TARGET::Kernel& kernel, const FO_TARGET::Workspace& workspace, std::uint32_t params, int sums,
                NormType norm_type = {});

    // Launch the kernel that fills an array with normal random numbers.
    void launch(const FO_TARGET::NoiseArguments& noise, bool is_double);

    // Launch a kernel with this work, which is plain data; each block may loop.
    void launch(const FO_TARGET::Kernel& kernel, std::span<const std::byte> work, std::int64_t blocks);

    // Launch a kernel over rows as often as its arguments have space for so many jobs.
    void launch(const FO_TARGET::Kernel& kernel, std::span<const FO_TARGET::RowJob> jobs);

  private:
    void set_table(const KernelGroup& group, std::size_t table_at);

    template <class Takes>
    void run(const FO_TARGET::KernelOf<Takes>& kernel, const Takes& arguments, std::uint32_t blocks);

    const FO_TARGET::CommonKernels common_ = FO_TARGET::common_kernels();
    Stream stream_{};
    FO_TARGET::Arguments arguments_{};
    FO_TARGET::UploadArguments upload_{};
};

}  // namespace fo::cuda
