#include "plan.h"

#include "cpu/device.h"
#include "float_environment.h"
#include "gil.h"
#include "rule_info.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace fo {
namespace {

Format known_format(const py::array& array) {
    const auto format = format_of(array);
    if (!format) throw std::invalid_argument("an array of unknown dtype");
    return *format;
}

void expect(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

}  // namespace

StepConstants UpdateConfig::constants_for_step(double lr, std::int64_t t, double grad_scale,
                                               const std::vector<double>& host_constants, ComputeTypes types) const {
    const DefaultFloatEnvironment environment;
    expect(host_constants.size() == host_constants_at.size(), "expected the rule's step constants");
    std::array<double, kMaxHyper> all;
    std::copy(values.begin(), values.end(), all.begin());
    if (lr_at >= 0) all[static_cast<std::size_t>(lr_at)] = lr;
    for (std::size_t k = 0; k < host_constants.size(); ++k)
        all[static_cast<std::size_t>(host_constants_at[k])] = host_constants[k];

    StepConstants constants{};
    constants.rule = rule;
    constants.skip_nonfinite = skip_nonfinite;
    constants.grad_multiplier = (maximize ? -1.0 : 1.0) / grad_scale;
    constants.clip_value = clip_value;
    constants.clip_norm = clip_norm;
    constants.clip_global_norm = clip_global_norm;
    constants.l1 = l1;
    constants.weight_decay = decoupled ? 0 : weight_decay;
    constants.keep = decoupled ? 1 - lr * weight_decay : 1;
    constants.average_keep = average_keep(t);
    const RuleInfo& info = rules()[static_cast<std::size_t>(rule)];
    if (types.f32) info.construct_f32(t, all.data(), constants);
    if (types.f64) info.construct_f64(t, all.data(), constants);
    return constants;
}

// The plain mean of n values keeps 1 - 1/n of that of the n - 1 before; until it starts it is the last value.
double UpdateConfig::average_keep(std::int64_t t) const {
    if (ema) return *ema;
    if (!swa_start) return 1;
    if (t < *swa_start) return 0;
    const std::int64_t before = (t - *swa_start) / swa_every;
    return (t - *swa_start) % swa_every ? 1 : double(before) / double(before + 1);
}

StepConstants bare(int rule) {
    expect(rule >= 0 && static_cast<std::size_t>(rule) < rules().size(), "expected a rule");
    StepConstants constants{};
    constants.rule = rule;
    constants.grad_multiplier = constants.keep = constants.average_keep = 1;
    constants.clip_value = constants.clip_norm = constants.clip_global_norm = INFINITY;
    return constants;
}

Plan::Plan(std::vector<py::array> params, std::vector<State> states, std::vector<int> groups, const std::string& isa)
    : params_(std::move(params)),
      states_(std::move(states)),
      groups_(std::move(groups)),
      loops_((isa.empty() ? cpu::default_isa() : cpu::named_isa(isa)).loops),
      clear_(std::make_unique<std::atomic<std::uintptr_t>[]>(params_.size())) {
    expect(states_.size() == params_.size() && groups_.size() == params_.size(),
           "expected one state and one group an array");
    for (std::size_t i = 0; i < params_.size(); ++i) {
        py::array& p = params_[i];
        Segment segment{};
        segment.size = p.size();
        segment.format = known_format(p);
        segment.group = groups_[i];
        const auto own = [&](py::array& array, Format format, std::int64_t size) {
            expect(array.size() == size && known_format(array) == format,
                   "expected state of the parameter's size and compute type");
            if (size > 0) own_.push_back(interval_of(array.mutable_data(), size, format));
            return array.mutable_data();
        };
        const auto kept = segment.format == Format::kFloat64 ? Format::kFloat64 : Format::kFloat32;
        (kept == Format::kFloat64 ? types_.f64 : types_.f32) = true;
        auto& [state, constants, average] = states_[i];
        expect(state.size() <= kMaxState && constants.size() <= kMaxScalarState && average.size() <= 1,
               "expected fewer state arrays");
        segment.p = own(p, segment.format, segment.size);
        for (std::size_t k = 0; k < state.size(); ++k) segment.state[k] = own(state[k], kept, segment.size);
        for (std::size_t k = 0; k < constants.size(); ++k)
            segment.scalar_state[k] = static_cast<double*>(own(constants[k], Format::kFloat64, 1));
        if (!average.empty()) segment.average = own(average[0], kept, segment.size);
        segments_.push_back(segment);
        layouts_.emplace_back(p);
        identities_.emplace_back(p);
    }
    std::sort(own_.begin(), own_.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
}

void Plan::expect_state(std::size_t i, const StepConstants& constants) const {
    const auto& [state, own, average] = states_[i];
    const RuleInfo& rule = rules()[static_cast<std::size_t>(constants.rule)];
    expect(rule.state.size() == state.size() && rule.scalar_state.size() == own.size() &&
               (constants.average_keep == 1 || !average.empty()),
           "expected the rule's state arrays");
}

void Plan::expect_groups(const std::vector<StepConstants>& constants) const {
    for (std::size_t i = 0; i < count(); ++i) {
        const auto group = static_cast<std::size_t>(groups_[i]);
        expect(group < constants.size(), "expected an update a group");
        expect_state(i, constants[group]);
    }
}

bool Plan::overlaps_own(Interval grad) const {
    const auto next = std::upper_bound(own_.begin(), own_.end(), grad.begin,
                                       [](auto address, auto& own) { return address < own.end; });
    return next != own_.end() && next->begin < grad.end;
}

bool Plan::unchanged(std::size_t i) const {
    return Identity(params_[i]) == identities_[i] && layouts_[i].fits(params_[i]);
}

bool Plan::accept(std::size_t i, py::handle grad, Gradient& gradient) const {
    if (!is_plain_array(grad)) return false;
    const auto format = format_of(grad);
    if (!format || !layouts_[i].fits(grad)) return false;

    gradient.data = raw(grad).data;
    gradient.format = *format;
    const auto seen = reinterpret_cast<std::uintptr_t>(gradient.data) * 4 + static_cast<std::uintptr_t>(*format);
    if (clear_[i].load(std::memory_order_relaxed) == seen) return true;
    if (segments_[i].size > 0 && overlaps_own(interval_of(gradient.data, segments_[i].size, *format))) return false;
    clear_[i].store(seen, std::memory_order_relaxed);
    return true;
}

std::vector<Gradient> Plan::no_gradients() const {
    std::vector<Gradient> gradients(count());
    for (std::size_t i = 0; i < count(); ++i) gradients[i] = {nullptr, 1, groups_[i], {}};
    return gradients;
}

std::int64_t Plan::take(const std::vector<py::object>& grads, std::vector<Gradient>& gradients) const {
    std::int64_t taken = 0;
    for (std::size_t i = 0; i < count(); ++i) {
        if (grads[i].is_none()) continue;
        if (!unchanged(i)) return kChanged;
        if (!accept(i, grads[i], gradients[i])) return kFirstOdd - static_cast<std::int64_t>(i);
        ++taken;
    }
    return taken;
}

bool Plan::run(std::vector<Gradient>& gradients, std::vector<StepConstants>& constants) const {
    const auto finalizes = [](const StepConstants& each) {
        return rules()[static_cast<std::size_t>(each.rule)].finalize != nullptr;
    };
    if (std::any_of(constants.begin(), constants.end(), finalizes)) {
        for (Gradient& gradient : gradients) {
            const auto shared = static_cast<std::size_t>(gradient.constants);
            if (!gradient.data || !finalizes(constants[shared])) continue;
            gradient.constants = static_cast<std::int32_t>(constants.size());
            constants.push_back(StepConstants(constants[shared]));
        }
    }
    const GilRelease unlocked;
    const StepArgs call{segments_.data(), gradients.data(), static_cast<std::int64_t>(count()), constants.data(),
                        static_cast<std::int64_t>(constants.size())};
    return cpu::step(call, loops_);
}

std::int64_t Plan::step(const py::list& grads, const std::optional<std::vector<int>>& step_of,
                        const std::vector<GroupStep>& group_steps) const {
    std::vector<StepConstants> constants;
    constants.reserve(group_steps.size());
    for (const auto& [hyper, lr, t, grad_scale, host_constants] : group_steps) {
        expect(hyper != nullptr, "expected hyper-parameters");
        constants.push_back(hyper->constants_for_step(lr, t, grad_scale, host_constants, types_));
    }
    return step(grads, step_of ? *step_of : groups_, constants);
}

std::int64_t Plan::step(const py::list& grads, const std::vector<int>& which,
                        std::vector<StepConstants>& constants) const {
    expect(grads.size() == count() && which.size() == count(), "expected one gradient and one update an array");
    std::vector<py::object> held;
    held.reserve(count());
    for (const py::handle grad : grads) held.push_back(py::reinterpret_borrow<py::object>(grad));
    std::vector<Gradient> gradients = no_gradients();
    const std::int64_t taken = take(held, gradients);
    if (taken < 0) return taken;
    for (std::size_t i = 0; i < count(); ++i) {
        if (!gradients[i].data) continue;
        const auto update = static_cast<std::size_t>(which[i]);
        expect(update < constants.size(), "expected an update");
        expect_state(i, constants[update]);
        gradients[i].constants = which[i];
    }
    return run(gradients, constants) ? taken : kSkipped;
}

std::vector<double> squared_norms(const std::vector<py::array>& arrays) {
    std::vector<Segment> segments;
    std::vector<Gradient> gradients;
    for (const py::array& array : arrays) {
        Segment segment{};
        segment.size = array.size();
        segment.format = known_format(array);
        segments.push_back(segment);
        gradients.push_back({array.data(), 1, 0, segment.format});
    }
    StepConstants constants = bare(0);

    const GilRelease unlocked;
    const auto sums =
        cpu::gradient_sums({segments.data(), gradients.data(), static_cast<std::int64_t>(arrays.size()), &constants, 1},
                           cpu::default_isa().loops);
    std::vector<double> squares;
    for (std::size_t i = 0; i < arrays.size(); ++i) squares.push_back(sums[i * kMaxSums]);
    return squares;
}

}  // namespace fo
