#include "launcher.h"

#include "reduce.h"

#include <algorithm>
#include <cstring>

namespace fo::cuda {
namespace {

using namespace FO_TARGET;

template <class Takes>
std::string describe(const KernelOf<Takes>& kernel) {
    std::string text = std::string("CUDA: the kernel '") + kernel.what + "'";
    if (*kernel.rule) text += std::string(" of ") + kernel.rule;
    if (*kernel.type) text += std::string(" (") + kernel.type + ")";
    return text;
}

}  // namespace

template <class Takes>
void Launcher::run(const KernelOf<Takes>& kernel, const Takes& arguments, std::uint32_t blocks) {
    if (blocks > 0) check(kernel.launch(stream_, arguments, blocks), describe(kernel));
}

void Launcher::upload(std::byte* to, std::span<const std::byte> bytes) {
    for (std::size_t done = 0; done < bytes.size(); done += kUploadBytes) {
        const std::size_t some = std::min(kUploadBytes, bytes.size() - done);
        upload_.to = to + done;
        upload_.vectors = std::uint32_t((some + sizeof(Vector) - 1) / sizeof(Vector));
        std::memcpy(upload_.bytes, bytes.data() + done, some);
        run(common_.put, upload_, blocks_for(upload_.vectors, kPutThreads));
    }
}

void Launcher::set_table(const KernelGroup& group, std::size_t table_at) {
    const auto& table = group.list.table;
    arguments_.table = group.on_device;
    arguments_.table_at = std::uint32_t(table_at);
    if (!group.on_device) std::memcpy(arguments_.bytes + table_at, table.data(), table.size());
    arguments_.tensors = group.list.tensors;
}

void Launcher::launch(const Kernel& kernel, const KernelGroup& group, const LaunchConstants& constants,
                      const Workspace& workspace, std::uint32_t blocks, int sums) {
    arguments_.constants = constants.on_device;
    std::memcpy(arguments_.bytes, constants.in_arguments.data(), constants.in_arguments.size());
    arguments_.desc_bytes = std::uint32_t(desc_bytes(rule_info(group.rule), group.is_staged));
    arguments_.sums = std::uint32_t(sums);
    arguments_.workspace = workspace;
    set_table(group, constants.in_arguments.size());
    run(kernel, arguments_, blocks);
}

void Launcher::launch(const Kernel& kernel, const Workspace& workspace, std::uint32_t params, int sums,
                      NormType norm_type) {
    arguments_.workspace = workspace;
    arguments_.tensors = params;
    arguments_.sums = std::uint32_t(sums);
    arguments_.norm_type = norm_type;
    run(kernel, arguments_, 1);
}

void Launcher::launch(const Kernel& kernel, std::span<const std::byte> work, std::int64_t blocks) {
    std::memcpy(arguments_.bytes, work.data(), work.size());
    run(kernel, arguments_, std::uint32_t(std::min<std::int64_t>(blocks, 1 << 20)));
}

void Launcher::launch(const NoiseArguments& noise, bool is_double) {
    const std::int64_t blocks = (noise.size + 4 * kNoiseThreads - 1) / (4 * kNoiseThreads);
    launch(common_.fill_normal[is_double], std::as_bytes(std::span(&noise, 1)), blocks);
}

void Launcher::launch(const Kernel& kernel, std::span<const RowJob> jobs) {
    for (std::size_t some = 0; !jobs.empty(); jobs = jobs.subspan(some)) {
        some = std::min(jobs.size(), RowJobs::kMost);
        RowJobs list{};
        for (std::size_t k = 0; k < some; ++k) {
            list.jobs[k] = jobs[k];
            list.begins[k + 1] = list.begins[k] + std::uint32_t((jobs[k].size + kRowChunk - 1) / kRowChunk);
        }
        std::memcpy(arguments_.bytes, &list, sizeof list);
        arguments_.tensors = std::uint32_t(some);
        run(kernel, arguments_, list.begins[some]);
    }
}

}  // namespace fo::cuda
