#include "plan.h"

#include "cpu/step.h"
#include "table.h"

#include <algorithm>
#include <stdexcept>

namespace fo {
namespace {

std::uintptr_t address(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }

}  // namespace

Plan::Plan(std::vector<py::array> params, std::vector<std::vector<py::array>> states,
           std::vector<int> groups, const std::string& isa)
    : params_(std::move(params)),
      states_(std::move(states)),
      groups_(std::move(groups)),
      updates_(cpu::choose_isa(isa).updates),
      clear_(std::make_unique<std::atomic<std::uintptr_t>[]>(params_.size())) {
    if (states_.size() != params_.size() || groups_.size() != params_.size())
        throw std::invalid_argument("one state and one group an array");
    for (std::size_t i = 0; i < params_.size(); ++i) {
        const Buffer p = buffer_of(params_[i]);
        if (states_[i].size() > kMaxState) throw std::invalid_argument("too many state arrays");
        Segment segment{p.data, {}, p.size, p.format};
        own(p);
        for (std::size_t k = 0; k < states_[i].size(); ++k) {
            const Buffer s = buffer_of(states_[i][k]);
            const auto kept = p.format == Format::kFloat64 ? Format::kFloat64 : Format::kFloat32;
            if (s.size != p.size || s.format != kept)
                throw std::invalid_argument("a state array of another size or dtype");
            segment.state[k] = s.data;
            own(s);
        }
        segments_.push_back(segment);
    }
    std::sort(own_.begin(), own_.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
}

void Plan::own(const Buffer& buffer) {
    if (buffer.size == 0) return;
    const auto begin = address(buffer.data);
    own_.push_back({begin, begin + static_cast<std::uintptr_t>(buffer.bytes())});
}

bool Plan::overlaps_own(const Buffer& buffer) const {
    const auto begin = address(buffer.data);
    const auto end = begin + static_cast<std::uintptr_t>(buffer.bytes());
    const auto next = std::upper_bound(own_.begin(), own_.end(), begin,
                                       [](auto value, auto& interval) { return value < interval.end; });
    return buffer.size > 0 && next != own_.end() && next->begin < end;
}

bool Plan::stale(std::size_t i) const {
    const Segment& segment = segments_[i];
    if (params_[i].data() != segment.p || !params_[i].writeable() ||
        format_of(params_[i]) != segment.format || params_[i].size() != segment.size)
        return true;
    for (std::size_t k = 0; k < states_[i].size(); ++k)
        if (states_[i][k].data() != segment.state[k] || !states_[i][k].writeable()) return true;
    return false;
}

bool Plan::accept(std::size_t i, const py::handle& grad, Gradient& gradient) const {
    if (!py::isinstance<py::array>(grad)) return false;
    const auto array = py::reinterpret_borrow<py::array>(grad);
    const auto format = format_of(array);
    if (!format || !same_layout(params_[i], array)) return false;

    const Buffer buffer = buffer_of(array);
    const auto seen = address(buffer.data) * 4 + static_cast<std::uintptr_t>(*format);
    if (clear_[i].load(std::memory_order_relaxed) != seen) {
        if (overlaps_own(buffer)) return false;
        clear_[i].store(seen, std::memory_order_relaxed);
    }
    gradient.data = buffer.data;
    gradient.format = *format;
    return true;
}

std::vector<Scalars> Plan::construct(const std::vector<ScalarsTuple>& tuples) const {
    std::vector<Scalars> all(tuples.size());
    for (std::size_t i = 0; i < tuples.size(); ++i) {
        const auto& [rule, t, maximize, weight_decay, keep, hyper] = tuples[i];
        const RuleInfo& info = rules()[static_cast<std::size_t>(rule)];
        if (hyper.size() != info.hyper.size())
            throw std::invalid_argument("hyper-parameters of another rule");
        all[i].rule = rule;
        all[i].maximize = maximize;
        all[i].weight_decay = weight_decay;
        all[i].keep = keep;
        info.construct(t, hyper.data(), all[i]);
    }
    return all;
}

std::int64_t Plan::step(const py::list& grads, const std::optional<std::vector<int>>& scalars_of,
                        const std::vector<ScalarsTuple>& tuples) const {
    const std::size_t count = segments_.size();
    const std::vector<int>& which = scalars_of ? *scalars_of : groups_;
    if (grads.size() != count || which.size() != count)
        throw std::invalid_argument("one gradient and one index of scalars an array");

    const std::vector<Scalars> scalars = construct(tuples);
    std::vector<Gradient> gradients(count);
    std::int64_t stepped = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const py::handle grad = PyList_GET_ITEM(grads.ptr(), static_cast<py::ssize_t>(i));
        if (grad.is_none()) continue;
        if (stale(i) || !accept(i, grad, gradients[i])) return -1;
        const auto& used = scalars.at(static_cast<std::size_t>(which[i]));
        if (rules()[static_cast<std::size_t>(used.rule)].state.size() != states_[i].size())
            throw std::invalid_argument("state of another rule");
        gradients[i].scalars = which[i];
        ++stepped;
    }

    const py::gil_scoped_release unlocked;
    cpu::step(
        {segments_.data(), gradients.data(), static_cast<std::int64_t>(count), scalars.data()},
        updates_);
    return stepped;
}

}  // namespace fo
