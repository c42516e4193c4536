#include "launcher.h"

#include "reduce.h"

#include <algorithm>
#include <cstring>

namespace fo::cuda {
namespace {

using namespace FO_TARGET;

std::string describe(const Kernel& kernel) {
    std::string text = std::string("CUDA: the kernel '") + kernel.what + "'";
    if (*kernel.rule) text += std::string(" of ") + kernel.rule;
    if (*kernel.type) text += std::string(" (") + kernel.type + ")";
    return text;
}

}  // namespace

void Launcher::run(const Kernel& kernel, std::uint32_t blocks) {
    if (blocks > 0) check(kernel.launch(stream_, arguments_, blocks), describe(kernel));
}

void Launcher::upload(std::byte* to, std::span<const std::byte> bytes) {
    for (std::size_t done = 0; done < bytes.size(); done += kTableBytes) {
        const std::size_t some = std::min(kTableBytes, bytes.size() - done);
        arguments_.table = to + done;
        arguments_.tensors = std::uint32_t((some + sizeof(Vector) - 1) / sizeof(Vector));
        std::memcpy(arguments_.bytes, bytes.data() + done, some);
        run(common_.put, blocks_for(arguments_.tensors, kPutThreads));
    }
}

void Launcher::set_table(const Launch& launch, std::size_t table_at) {
    const auto& table = launch.list.table;
    arguments_.table = launch.on_device;
    arguments_.table_at = std::uint32_t(table_at);
    if (!launch.on_device) std::memcpy(arguments_.bytes + table_at, table.data(), table.size());
    arguments_.tensors = launch.list.tensors;
}

void Launcher::launch(const Kernel& kernel, const KernelGroup& group, const Launch& launch,
                      const LaunchConstants& constants, const Workspace& workspace, std::uint32_t blocks, int sums) {
    arguments_.constants = constants.on_device;
    std::memcpy(arguments_.bytes, constants.in_arguments.data(), constants.in_arguments.size());
    arguments_.desc_bytes = std::uint32_t(desc_bytes(rule_info(group.rule)));
    arguments_.sums = std::uint32_t(sums);
    arguments_.workspace = workspace;
    set_table(launch, constants.in_arguments.size());
    run(kernel, blocks);
}

void Launcher::launch(const Kernel& kernel, const Workspace& workspace, std::uint32_t params, NormType norm_type) {
    arguments_.workspace = workspace;
    arguments_.tensors = params;
    arguments_.norm_type = norm_type;
    run(kernel, 1);
}

void Launcher::launch(const NoiseArguments& noise, bool is_double) {
    std::memcpy(arguments_.bytes, &noise, sizeof noise);
    const std::int64_t blocks = (noise.size + 4 * kNoiseThreads - 1) / (4 * kNoiseThreads);
    run(common_.fill_normal[is_double], std::uint32_t(std::min<std::int64_t>(blocks, 1 << 20)));  // each block loops
}

}  // namespace fo::cuda
