#include "cuda_plan.h"

#include "formats.h"
#include "gil.h"
#include "rule_info.h"

#include <algorithm>
#include <stdexcept>

namespace fo {
namespace {

void expect(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument(what);
}

Format format_named(const std::string& name) {
    if (name == "float64") return Format::kFloat64;
    if (name == "float32") return Format::kFloat32;
    if (name == "float16") return Format::kFloat16;
    expect(name == "bfloat16", "expected a format, got '" + name + "'");
    return Format::kBfloat16;
}

void* pointer(CudaPlan::Address address) { return reinterpret_cast<void*>(address); }

// A GPU cannot load an element from elsewhere.
void* element_at(CudaPlan::Address address, Format format, const std::string& what) {
    expect(address % FO_TARGET::item_size(format) == 0,
           what + ": expected an address that is a multiple of its item size");
    return pointer(address);
}

std::vector<StepConstants> constants_of(const std::vector<GroupStep>& group_steps) {
    std::vector<StepConstants> constants;
    constants.reserve(group_steps.size());
    for (const auto& [hyper, lr, t, grad_scale, host_constants] : group_steps) {
        expect(hyper != nullptr, "expected hyper-parameters");
        constants.push_back(hyper->constants_for_step(lr, t, grad_scale, host_constants));
    }
    return constants;
}

std::string place(const char* what, std::size_t i) { return std::string(what) + "[" + std::to_string(i) + "]"; }

}  // namespace

CudaPlan::CudaPlan(const std::vector<Parameter>& params, const std::vector<ItsState>& states, std::vector<int> groups,
                   int device)
    : groups_(std::move(groups)) {
    expect(states.size() == params.size() && groups_.size() == params.size(),
           "expected one state and one group an array");
    for (std::size_t i = 0; i < params.size(); ++i) {
        const auto& [address, size, format] = params[i];
        const auto& [state, constants, average] = states[i];
        expect(size >= 0, "expected a size");
        expect(state.size() <= kMaxState && constants.size() <= kMaxScalarState && average.size() <= 1,
               "expected fewer state arrays");
        Segment segment{};
        segment.size = size;
        segment.format = format_named(format);
        segment.group = groups_[i];
        const Format kept = segment.format == Format::kFloat64 ? Format::kFloat64 : Format::kFloat32;
        const auto element = [&](Address at, Format its) { return element_at(at, its, place("params", i)); };
        segment.p = element(address, segment.format);
        for (std::size_t k = 0; k < state.size(); ++k) segment.state[k] = element(state[k], kept);
        for (std::size_t k = 0; k < constants.size(); ++k)
            segment.scalar_state[k] = static_cast<double*>(element(constants[k], Format::kFloat64));
        if (!average.empty()) segment.average = element(average[0], kept);
        segments_.push_back(segment);
        state_counts_.emplace_back(state.size(), constants.size());
    }
    plan_ = cuda::make_plan(segments_, device);
}

void CudaPlan::expect_state(std::size_t i, const StepConstants& constants) const {
    const RuleInfo& rule = rules()[static_cast<std::size_t>(constants.rule)];
    expect(state_counts_[i] == std::pair(rule.state.size(), rule.scalar_state.size()) &&
               (constants.average_keep == 1 || segments_[i].average || segments_[i].size == 0),
           "expected the rule's state arrays");
}

std::vector<Gradient> CudaPlan::gradients_of(const Gradients& grads, const Formats& formats, const StepOf& step_of,
                                             const std::vector<StepConstants>& constants) const {
    const std::vector<int>& which = step_of ? *step_of : groups_;
    const auto* each = std::get_if<std::vector<std::string>>(&formats);
    const std::size_t count = segments_.size();
    expect(grads.size() == count && which.size() == count && (!each || each->size() == count),
           "expected one gradient, one format and one update an array");
    const Format of_all = each ? Format::kFloat32 : format_named(std::get<std::string>(formats));
    std::vector<Gradient> gradients(count);
    for (std::size_t i = 0; i < count; ++i) {
        const bool empty = segments_[i].size == 0;
        if (!grads[i] || (*grads[i] == 0 && !empty)) continue;
        const auto update = static_cast<std::size_t>(which[i]);
        expect(update < constants.size(), "expected an update");
        expect_state(i, constants[update]);
        const Format format = each ? format_named((*each)[i]) : of_all;
        // An empty array has no address, but takes part.
        const void* data = empty ? &segments_[i] : element_at(*grads[i], format, place("grads", i));
        gradients[i] = {data, 1, which[i], format};
    }
    return gradients;
}

std::int64_t CudaPlan::step(const Gradients& grads, const Formats& formats, const StepOf& step_of,
                            const std::vector<GroupStep>& group_steps, Address stream,
                            std::optional<double> whole_norm) {
    const auto constants = constants_of(group_steps);
    const auto gradients = gradients_of(grads, formats, step_of, constants);
    const GilRelease unlocked;
    if (!plan_->step(gradients, constants, pointer(stream), whole_norm)) return kSkipped;
    return std::count_if(gradients.begin(), gradients.end(), [](auto& gradient) { return gradient.data; });
}

std::optional<std::vector<double>> CudaPlan::gradient_norms(const Gradients& grads, const Formats& formats,
                                                            const StepOf& step_of,
                                                            const std::vector<GroupStep>& group_steps, Address stream) {
    const auto constants = constants_of(group_steps);
    const auto gradients = gradients_of(grads, formats, step_of, constants);
    const GilRelease unlocked;
    return plan_->gradient_norms(gradients, constants, pointer(stream));
}

void CudaPlan::advance(const StepOf& step_of, const std::vector<GroupStep>& group_steps, Address stream) {
    const auto constants = constants_of(group_steps);
    expect(!step_of || step_of->size() == segments_.size(), "expected one update an array");
    const GilRelease unlocked;
    plan_->advance(constants, pointer(stream));
}

CudaBandwidthProbe::CudaBandwidthProbe(int rule, const std::vector<Parameter>& params,
                                       const std::vector<ItsState>& states, const Gradients& grads,
                                       const Formats& formats, int device)
    : CudaPlan(params, states, std::vector<int>(params.size()), device),
      constants_{bare(rule)},
      gradients_(gradients_of(grads, formats, std::nullopt, constants_)) {}

void CudaBandwidthProbe::run(std::uint64_t mask, Address stream) {
    const GilRelease unlocked;
    plan_->run_probe(gradients_, constants_, mask, pointer(stream));
}

std::uint64_t CudaBandwidthProbe::answer(Address stream) {
    const GilRelease unlocked;
    return plan_->probe_answer(pointer(stream));
}

std::vector<double> cuda_squared_norms(const std::vector<CudaPlan::Parameter>& arrays, int device,
                                       CudaPlan::Address stream) {
    std::vector<Segment> segments;
    std::vector<Gradient> gradients;
    for (const auto& [address, size, format] : arrays) {
        Segment segment{};
        segment.size = size;
        segment.format = format_named(format);
        segment.p = element_at(address, segment.format, "arrays");
        segments.push_back(segment);
        gradients.push_back({size > 0 ? segment.p : nullptr, 1, 0, segment.format});
    }
    const GilRelease unlocked;
    return cuda::make_plan(segments, device)->squared_norms(gradients, {bare(0)}, pointer(stream));
}

}  // namespace fo
