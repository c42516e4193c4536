// A GPU as a device: executes the passes of a step as kernel launches.  Plain C++, for CUDA and for its emulation.
//
// The tables and constants of a step are in step_tables.h, the kernels in update.h and reduce.h.
#include "../expect.h"
#include "../pass.h"
#include "cuda.h"
#include "reduce.h"
#include "step_tables.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <stdexcept>

namespace fo::cuda {
namespace {

using namespace FO_TARGET;

class GpuDevice final : public Device {
  public:
    GpuDevice(std::vector<Segment> segments, int device) : segments_(std::move(segments)), device_(device) {}

    ~GpuDevice() override {
        try {
            const OnDevice here(device_);
            memory_.reset();
            answer_.reset();
        } catch (const std::exception&) {  // the process ends, and the driver has gone before
        }
    }

    bool step(const StepArgs& step, void* stream, const Elsewhere& elsewhere) override {
        if (elsewhere.sums) throw std::logic_error("sums over several devices are not supported");
        const std::optional<double>& global_norm = elsewhere.global_norm;
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        prepare(step, stream, global_norm.has_value());
        global_norm_ = global_norm;
        has_reduced_gradients_ = has_reduced_gradients_ && global_norm.has_value();
        const std::vector<Pass> passes = plan_passes(step);  // none without a gradient
        // If clipped_norms has reduced the gradients, it has found none to skip.
        const bool waits = skips_ && !has_reduced_gradients_ && !passes.empty();
        for (const Pass& pass : passes) run(pass.kind);
        has_reduced_gradients_ = false;
        return !waits || answer_->wait() == 0;
    }

    std::optional<std::vector<double>> clipped_norms(const StepArgs& step, void* stream) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        prepare(step, stream, true);
        reduce_gradients(true);
        if (skips_ && found_nonfinite()) return std::nullopt;
        has_reduced_gradients_ = true;
        std::vector<double> norms(segments_.size());
        if (!norms.empty())
            read(launcher_.stream(), norms.data(), workspace_.clipped_norms, norms.size() * sizeof(double));
        return norms;
    }

    std::vector<double> rule_sums(const StepArgs&, void*, const Elsewhere&) override {
        throw std::logic_error("sums over several devices are not supported");
    }

    void advance(const std::vector<StepConstants>& constants, void* stream) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        launcher_.set_stream({device_, stream});
        constants_.advance(constants);
    }

  private:
    // `reads_norms`: the host reads the gradients' norms for this step.
    void prepare(const StepArgs& step, void* stream, bool reads_norms) {
        launcher_.set_stream({device_, stream});
        capturing_ = is_capturing(launcher_.stream());
        skips_ = bounds_ = bounds_global_norm_ = is_cautious_ = false;
        norm_type_ = step.norm_type();
        has_norm_type_ = {};
        for (std::int64_t k = 0; k < step.constants_count; ++k) {
            skips_ |= step.constants[k].skip_nonfinite;
            bounds_ |= step.constants[k].bounds_norms();
            is_cautious_ |= step.constants[k].cautious;
            has_norm_type_[std::size_t(step.constants[k].norm_type)] = true;
            bounds_global_norm_ |= step.constants[k].clip_global_norm < INFINITY;
        }
        if (capturing_ && (skips_ || reads_norms))
            throw std::runtime_error(
                "skip_nonfinite, and norms over several devices, cannot be captured in a CUDA graph: "
                "the host has to know them before it continues");
        rows_.gather(step);
        tables_.prepare(step, capturing_);
        constants_.prepare(step, tables_.groups(), capturing_, has_norms());
    }

    bool has_norms() const { return skips_ || bounds_; }

    const RuleKernels& kernels(const KernelKind& kind) {
        RuleKernels& known = kernels_[kind];
        if (!known.update.launch) {
            known = kernels_of(kind.rule, kind.is_double);
            if (kind.is_staged) {
                const RuleKernels staged = staged_kernels_of(kind.rule, kind.is_double);
                known.update = staged.update;
                known.reduce = staged.reduce;
            }
        }
        expect(known.update.launch, "a rule with kernels for a GPU");
        return known;
    }

    // ---- passes

    void run(PassKind kind) {
        switch (kind) {
            case PassKind::kReduceGradients:
                if (!has_reduced_gradients_) reduce_gradients(bounds_);
                return;
            case PassKind::kClip: return clip();
            case PassKind::kBeforeReduce: return before_reduce();
            case PassKind::kReduceRule: return reduce_rule();
            case PassKind::kReduceAll: return reduce_all();
            case PassKind::kReduceRows: return reduce_rows();
            case PassKind::kFinalize: return finalize();
            case PassKind::kCountAgreeing: return count_agreeing();
            case PassKind::kUpdate: return update();
        }
    }

    void reserve_sums() {
        const std::size_t partials = std::size_t(tables_.sum_chunks()) * kMaxSums * sizeof(double);
        workspace_.partials = reinterpret_cast<double*>(partials_.grow_to(*memory_, partials));
        if (!workspace_.sums) workspace_.sums = memory_->get<double>(segments_.size() * kMaxSums);
    }

    void reserve_norms() {
        reserve_sums();
        if (workspace_.clips) return;
        workspace_.clipped_norms = memory_->get<double>(segments_.size());
        workspace_.bounds = memory_->get<GlobalBound>(segments_.size());
        workspace_.norm = memory_->get<double>(1);
        workspace_.found_nonfinite = memory_->get<std::int32_t>(1);
        workspace_.clips = memory_->get<double>(segments_.size());
    }

    void reserve_rules() {
        if (!workspace_.rules) workspace_.rules = memory_->get<std::byte>(segments_.size() * kRuleBytes);
    }

    // Each pass receives what it needs and nothing that an earlier step left.
    Workspace workspace_for_update(const KernelGroup& group) const {
        Workspace workspace{};
        if (has_norms()) workspace.clips = workspace_.clips;
        if (rule_info(group.rule).finalize) workspace.rules = workspace_.rules;
        if (skips_) workspace.found_nonfinite = workspace_.found_nonfinite;
        if (is_cautious_) workspace.agreeing = workspace_.agreeing;
        return workspace;
    }

    Workspace workspace_for_sums(const KernelGroup& group) const {
        Workspace workspace = workspace_for_update(group);
        workspace.partials = workspace_.partials;
        workspace.sums = workspace_.sums;
        return workspace;
    }

    // `for_norms`: not only to find numbers that are not finite.
    void reduce_gradients(bool for_norms) {
        reserve_norms();
        clear(launcher_.stream(), workspace_.clipped_norms, segments_.size() * sizeof(double));
        clear(launcher_.stream(), workspace_.found_nonfinite, sizeof *workspace_.found_nonfinite);
        for (const KernelGroup& group : tables_.groups()) {
            const LaunchConstants constants = constants_.of(group);
            const auto sum = [&](const Kernel& kernel) {
                launcher_.launch(kernel, group, constants, workspace_, group.list.sum_chunks);
            };
            const auto finish = [&](const Kernel& kernel) {
                launcher_.launch(kernel, group, constants, workspace_, group.list.tensors, kGradientTerms);
            };
            for (std::size_t type = 0; type < has_norm_type_.size(); ++type)
                if (has_norm_type_[type]) sum(common_.sum_gradients[group.is_double][type]);
            finish(common_.finish_gradients[group.is_double]);
            if (!for_norms || !group.is_double || !has_norm_type_[std::size_t(NormType::kTwo)]) continue;
            sum(common_.sum_scaled_f64);
            finish(common_.finish_scaled_f64);
        }
    }

    bool found_nonfinite() const {
        std::int32_t found = 0;
        read(launcher_.stream(), &found, workspace_.found_nonfinite, sizeof found);
        return found != 0;
    }

    // The kernels that follow read themselves whether the step is skipped: the host waits once they are launched.
    void clip() {
        if (skips_ && !has_reduced_gradients_) answer_->request(launcher_.stream(), workspace_.found_nonfinite);
        if (!bounds_global_norm_ && !capturing_) return;
        Workspace workspace = workspace_;
        if (global_norm_) {
            std::byte bytes[sizeof(double)];
            std::memcpy(bytes, &*global_norm_, sizeof bytes);
            launcher_.upload(reinterpret_cast<std::byte*>(workspace.norm), bytes);
        } else {
            workspace.norm = nullptr;
        }
        launcher_.launch(common_.clip_all, workspace, std::uint32_t(segments_.size()), 0, norm_type_);
    }

    void before_reduce() {
        reserve_rules();
        for (const KernelGroup& group : tables_.groups()) {
            if (const Kernel& kernel = kernels(group).before_reduce; kernel.launch)
                launcher_.launch(kernel, group, constants_.of(group), workspace_for_sums(group),
                                 blocks_for(group.list.tensors, kRuleThreads));
        }
    }

    void reduce_rule() {
        reserve_sums();
        for (const KernelGroup& group : tables_.groups()) {
            const Kernel& kernel = kernels(group).reduce;
            if (!kernel.launch) continue;
            const LaunchConstants constants = constants_.of(group);
            const Workspace workspace = workspace_for_sums(group);
            launcher_.launch(kernel, group, constants, workspace, group.list.sum_chunks);
            launcher_.launch(common_.finish, group, constants, workspace, group.list.tensors,
                             rule_info(group.rule).sums);
        }
    }

    void reduce_all() {
        int sums = 0;
        for (const KernelGroup& group : tables_.groups()) sums = std::max(sums, rule_info(group.rule).sums);
        launcher_.launch(common_.add_all, workspace_, std::uint32_t(segments_.size()), sums);
    }

    void reduce_rows() {
        for (const KernelGroup& group : tables_.groups()) {
            const auto blocks = std::uint32_t(std::min<std::int64_t>(group.list.row_units, 1 << 20));  // each loops
            if (const Kernel& kernel = kernels(group).reduce_rows; kernel.launch)
                launcher_.launch(kernel, group, constants_.of(group), workspace_for_update(group), blocks);
        }
    }

    void finalize() {
        reserve_sums();
        reserve_rules();
        for (const KernelGroup& group : tables_.groups()) {
            if (const Kernel& kernel = kernels(group).finalize; kernel.launch)
                launcher_.launch(kernel, group, constants_.of(group), workspace_for_sums(group),
                                 blocks_for(group.list.tensors, kRuleThreads));
        }
    }

    void count_agreeing() {
        if (!workspace_.agreeing) workspace_.agreeing = memory_->get<std::uint64_t>(segments_.size());
        clear(launcher_.stream(), workspace_.agreeing, segments_.size() * sizeof *workspace_.agreeing);
        for (const KernelGroup& group : tables_.groups()) {
            Workspace workspace = workspace_for_update(group);
            workspace.counts = true;
            launcher_.launch(kernels(group).update, group, constants_.of(group), workspace, group.list.update_chunks);
        }
    }

    void update() {
        for (const KernelGroup& group : tables_.groups()) {
            launcher_.launch(kernels(group).update, group, constants_.of(group), workspace_for_update(group),
                             group.list.update_chunks);
        }
        rows_.scatter();
    }

    std::mutex mutex_;
    const std::vector<Segment> segments_;
    const int device_;
    const CommonKernels common_ = common_kernels();
    std::map<KernelKind, RuleKernels> kernels_;

    std::unique_ptr<DeviceMemory> memory_ = std::make_unique<DeviceMemory>();
    std::unique_ptr<Answer> answer_ = std::make_unique<Answer>();
    Launcher launcher_;
    RowBuffers rows_{segments_, *memory_, launcher_};
    StepTables tables_{segments_, rows_, *memory_, launcher_};
    ConstantsBuffer constants_{*memory_, launcher_};
    Workspace workspace_{};
    GrowBuffer partials_;

    // Of the step that is executed.
    bool capturing_ = false, skips_ = false, bounds_ = false, bounds_global_norm_ = false;
    bool is_cautious_ = false;
    NormType norm_type_{};
    std::array<bool, 3> has_norm_type_{};
    bool has_reduced_gradients_ = false;  // by clipped_norms, for the step that follows
    std::optional<double> global_norm_;
};

}  // namespace

std::unique_ptr<Device> make_device(std::vector<Segment> segments, int device) {
    if (const std::string reason = status(); !reason.empty()) throw std::runtime_error(reason);
    const int devices = device_count();
    if (device < 0 || device >= devices)
        throw std::runtime_error("expected a CUDA device from 0 to " + std::to_string(devices - 1) + ", got " +
                                 std::to_string(device));
    for (const Segment& segment : segments)
        if (&segment - segments.data() != segment.param)
            throw std::runtime_error("expected one segment for each parameter on a GPU");
    return std::make_unique<GpuDevice>(std::move(segments), device);
}

void fill_normal(const ArrayRef& array, const RandomKey& key, int device, void* stream) {
    if (array.size == 0) return;
    const OnDevice here(device);
    Launcher launcher;
    launcher.set_stream({device, stream});
    launcher.launch({array.data, array.size, key}, array.format == Format::kFloat64);
}

}  // namespace fo::cuda
