// Launches of the kernels of sums over rows and columns, and of what follows from them.
#include "axis_sums.h"

#include "cuda.h"
#include "launcher.h"

#include <algorithm>

namespace fo::cuda {
namespace {

const FO_TARGET::AxisKernels& kernels() {
    static const FO_TARGET::AxisKernels all = FO_TARGET::axis_kernels();
    return all;
}

template <class Work>
void launch(const FO_TARGET::Kernel& kernel, const Work& work, std::int64_t blocks, const Stream& stream) {
    const OnDevice here(stream.device);
    Launcher launcher;
    launcher.set_stream(stream);
    launcher.launch(kernel, std::as_bytes(std::span(&work, 1)), blocks);
}

std::int64_t blocks_of_threads(std::int64_t size) {
    return (size + FO_TARGET::kAxisThreads - 1) / FO_TARGET::kAxisThreads;
}

}  // namespace

void reduce_axes(const AxisWork& work, bool largest, const Stream& stream) {
    launch(kernels().sum[work.format == Format::kFloat64][largest], work, work.units(), stream);
    launch(kernels().finish[largest], work, blocks_of_threads(work.batch * (work.rows + work.columns)), stream);
}

void add_groups(const GroupsWork& work, const Stream& stream) {
    launch(kernels().add_groups, work, work.groups, stream);
}

void update_moments(const MomentsWork& work, bool is_double, const Stream& stream) {
    std::int64_t most = 0;
    for (const Moment& moment : work.moments) most = std::max(most, moment.size * moment.repeats);
    launch(kernels().update_moments[is_double], work, blocks_of_threads(most), stream);
}

void set_row_factors(const RowFactorsWork& work, bool is_double, const Stream& stream) {
    launch(kernels().row_factors[is_double], work, blocks_of_threads(work.size), stream);
}

void set_clip_factors(const ClipFactorsWork& work, const Stream& stream) {
    launch(kernels().clip_factors, work, 1, stream);
}

void clip_units(const ClipUnitsWork& work, const Stream& stream) {
    launch(kernels().clip_units[work.format == Format::kFloat64], work, blocks_of_threads(work.size), stream);
}

}  // namespace fo::cuda
