#include "plan.h"

#include "cpu/step.h"
#include "float_environment.h"
#include "table.h"

#include <algorithm>
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

Scalars Hyper::at(double lr, std::int64_t t) const {
    const DefaultFloatEnvironment environment;
    std::vector<double> all = values;
    all.at(static_cast<std::size_t>(lr_at)) = lr;
    Scalars scalars{};
    scalars.rule = rule;
    scalars.maximize = maximize;
    scalars.weight_decay = decoupled ? 0 : weight_decay;
    scalars.keep = decoupled ? 1 - lr * weight_decay : 1;
    rules()[static_cast<std::size_t>(rule)].construct(t, all.data(), scalars);
    return scalars;
}

Plan::Plan(std::vector<py::array> params, std::vector<std::vector<py::array>> states, std::vector<int> groups,
           const std::string& isa)
    : params_(std::move(params)),
      states_(std::move(states)),
      groups_(std::move(groups)),
      loops_((isa.empty() ? cpu::default_isa() : cpu::named_isa(isa)).updates),
      clear_(std::make_unique<std::atomic<std::uintptr_t>[]>(params_.size())) {
    expect(states_.size() == params_.size() && groups_.size() == params_.size(),
           "expected one state and one group an array");
    const auto own = [this](const void* data, std::int64_t size, Format format) {
        if (size > 0) own_.push_back(interval_of(data, size, format));
    };
    for (std::size_t i = 0; i < params_.size(); ++i) {
        py::array& p = params_[i];
        Segment segment{p.mutable_data(), {}, p.size(), known_format(p)};
        own(segment.p, segment.size, segment.format);
        expect(states_[i].size() <= kMaxState, "expected fewer state arrays");
        const auto kept = segment.format == Format::kFloat64 ? Format::kFloat64 : Format::kFloat32;
        for (std::size_t k = 0; k < states_[i].size(); ++k) {
            py::array& s = states_[i][k];
            expect(s.size() == segment.size && known_format(s) == kept,
                   "expected a state array of the parameter's size and compute type");
            segment.state[k] = s.mutable_data();
            own(segment.state[k], segment.size, kept);
        }
        segments_.push_back(segment);
        layouts_.emplace_back(p);
        identities_.emplace_back(p);
    }
    std::sort(own_.begin(), own_.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
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

    gradient.data = data_of(grad);
    gradient.format = *format;
    const Interval bytes = interval_of(gradient.data, segments_[i].size, *format);
    const auto seen = bytes.begin * 4 + static_cast<std::uintptr_t>(*format);
    if (clear_[i].load(std::memory_order_relaxed) == seen) return true;
    if (segments_[i].size > 0 && overlaps_own(bytes)) return false;
    clear_[i].store(seen, std::memory_order_relaxed);
    return true;
}

std::int64_t Plan::step(const py::list& grads, const std::optional<std::vector<int>>& update_of,
                        const std::vector<Update>& updates) const {
    const std::size_t count = segments_.size();
    const std::vector<int>& which = update_of ? *update_of : groups_;
    expect(grads.size() == count && which.size() == count, "expected one gradient and one update an array");

    std::vector<Scalars> scalars;
    scalars.reserve(updates.size());
    for (const auto& [hyper, lr, t] : updates) {
        expect(hyper != nullptr, "expected hyper-parameters");
        scalars.push_back(hyper->at(lr, t));
    }

    std::vector<Gradient> gradients(count);
    std::int64_t stepped = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const py::handle grad = PyList_GET_ITEM(grads.ptr(), static_cast<py::ssize_t>(i));
        if (grad.is_none()) continue;
        if (!unchanged(i)) return kChanged;
        if (!accept(i, grad, gradients[i])) return kFirstOdd - static_cast<std::int64_t>(i);
        const int rule = scalars.at(static_cast<std::size_t>(which[i])).rule;
        expect(rules()[static_cast<std::size_t>(rule)].state.size() == states_[i].size(),
               "expected the rule's state arrays");
        gradients[i].scalars = which[i];
        ++stepped;
    }

    const py::gil_scoped_release unlocked;
    cpu::step({segments_.data(), gradients.data(), static_cast<std::int64_t>(count), scalars.data()}, loops_);
    return stepped;
}

}  // namespace fo
