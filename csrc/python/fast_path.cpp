#include "fast_path.h"

#include "../expect.h"
#include "references.h"

#include <algorithm>
#include <cmath>

namespace fo {
namespace {

// Compare a group's keys and values by identity, in the order of the dict, with `seen`: first all keys, then all
// values. An option that was assigned is another object.
bool is_as_seen(py::handle group, const py::tuple& seen) {
    const py::scoped_critical_section one_thread(group);
    if (!PyDict_Check(group.ptr())) return false;
    const Py_ssize_t count = PyDict_GET_SIZE(group.ptr());
    if (2 * count != PyTuple_GET_SIZE(seen.ptr())) return false;
    PyObject *key, *value;
    for (Py_ssize_t at = 0, i = 0; PyDict_Next(group.ptr(), &at, &key, &value); ++i)
        if (key != PyTuple_GET_ITEM(seen.ptr(), i) || value != PyTuple_GET_ITEM(seen.ptr(), count + i)) return false;
    return true;
}

// `seen_of(i)` returns the keys and values of group i.
template <class SeenOf>
bool are_as_seen(py::handle groups, std::size_t count, SeenOf seen_of) {
    if (!PyList_Check(groups.ptr()) || PyList_GET_SIZE(groups.ptr()) != static_cast<Py_ssize_t>(count)) return false;
    for (std::size_t i = 0; i < count; ++i) {
        const py::object group = entry_of(groups, static_cast<Py_ssize_t>(i));
        if (!group || !is_as_seen(group, seen_of(i))) return false;
    }
    return true;
}

// Call f for each entry of a dict or list, in order, while it returns true.  Returns whether it was true for all.
template <class F>
bool for_entries(py::handle container, F f) {
    const py::scoped_critical_section one_thread(container);
    if (PyDict_Check(container.ptr())) {
        PyObject *key, *value;
        for (Py_ssize_t at = 0; PyDict_Next(container.ptr(), &at, &key, &value);)
            if (!f(value)) return false;
        return true;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(container.ptr()); ++i)
        if (!f(PyList_GET_ITEM(container.ptr(), i))) return false;
    return true;
}

double as_number(py::handle value) {
    const double number = PyFloat_AsDouble(value.ptr());
    if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
    return number;
}

std::int64_t as_integer(py::handle value) {
    const auto number = PyLong_AsLongLong(value.ptr());
    if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
    return number;
}

void read_values(py::handle dict, std::vector<double>& values) {
    expect(PyDict_Check(dict.ptr()), "a dict of numbers");
    values.clear();
    if (PyDict_GET_SIZE(dict.ptr()) == 0) return;
    const auto list = py::reinterpret_steal<py::list>(PyDict_Values(dict.ptr()));
    if (!list) throw py::error_already_set();
    for (const py::object& value : objects_of(list)) values.push_back(as_number(value));
}

// Read (step number, rate, ...) with a rate for each group; return false if that is not `t`, or a rate is not valid.
bool read_rates(py::handle scheduled, std::size_t groups, std::int64_t t, std::vector<double>& rates) {
    PyObject* const all = scheduled.ptr();
    expect(PyTuple_Check(all) && PyTuple_GET_SIZE(all) == Py_ssize_t(groups) + 1, "a rate for each group");
    if (as_integer(PyTuple_GET_ITEM(all, 0)) != t) return false;
    rates.reserve(groups);
    for (std::size_t i = 1; i <= groups; ++i) {
        PyObject* const rate = PyTuple_GET_ITEM(all, Py_ssize_t(i));
        if (!PyFloat_CheckExact(rate)) return false;
        rates.push_back(PyFloat_AS_DOUBLE(rate));
        if (!(rates.back() >= 0 && rates.back() < INFINITY)) return false;
    }
    return true;
}

}  // namespace

FastPath::FastPath(std::shared_ptr<Model> model, const py::object& nesting,
                   std::vector<std::shared_ptr<const UpdateConfig>> configs,
                   std::optional<std::vector<FixedGroup>> fixed, py::object stream, const py::list& containers)
    : model_(std::move(model)),
      nesting_(nesting),
      configs_(std::move(configs)),
      fixed_(std::move(fixed)),
      stream_(std::move(stream)) {
    expect(model_ != nullptr, "a model");
    for (const auto& config : configs_) expect(config != nullptr, "the options of each group");
    std::vector<StepConstants> constants;
    constants.reserve(configs_.size());
    for (const auto& config : configs_)
        constants.push_back(config->constants_for_step(0, 1, 1, std::vector<double>(config->host_constants_at.size())));
    model_->expect_groups(constants);
    for (const py::handle each : containers) {
        Container& container = containers_.emplace_back(Container{py::reinterpret_borrow<py::object>(each), {}});
        for_entries(each, [&](const PyObject* entry) {
            container.entries.push_back(entry);
            return true;
        });
    }
    if (!fixed_) return;
    expect(fixed_->size() == configs_.size(), "the options of each group");
    fixed_constants(1, {});
}

FastPath::Stream FastPath::current_stream() const {
    if (stream_.is_none()) return {};
    const auto [address, captures] = py::cast<std::pair<Address, bool>>(stream_());
    return {reinterpret_cast<void*>(address), captures};
}

std::vector<StepConstants> FastPath::fixed_constants(std::int64_t t, const std::vector<double>& rates) const {
    std::vector<StepConstants> constants;
    constants.reserve(fixed_->size());
    for (std::size_t i = 0; i < fixed_->size(); ++i) {
        const auto& [seen, lr, grad_scale, host_constants] = (*fixed_)[i];
        const double rate = rates.empty() ? lr : rates[i];
        constants.push_back(configs_[i]->constants_for_step(rate, t, grad_scale, host_constants, model_->types()));
    }
    return constants;
}

bool FastPath::has_same_containers() const {
    return std::all_of(containers_.begin(), containers_.end(), [](const Container& each) {
        auto expected = each.entries.begin();
        const auto is_expected = [&](const PyObject* entry) {
            return expected != each.entries.end() && entry == *expected++;
        };
        return for_entries(each.object, is_expected) && expected == each.entries.end();
    });
}

bool FastPath::try_step(py::handle groups, py::handle grads, const py::list& counts, py::handle scheduled) const {
    if (!fixed_) return false;
    const std::int64_t t = as_integer(counts[0]) + 1;
    std::vector<double> rates;
    if (!scheduled.is_none() && !read_rates(scheduled, fixed_->size(), t, rates)) return false;
    const auto seen_of = [this](std::size_t i) -> const py::tuple& { return std::get<py::tuple>((*fixed_)[i]); };
    if (!are_as_seen(groups, fixed_->size(), seen_of) || !has_same_containers()) return false;
    std::vector<py::object> leaves;
    leaves.reserve(model_->count());
    if (!nesting_.gather(grads, leaves) || leaves.size() != model_->count()) return false;
    Gradients gradients = model_->no_gradients();
    std::vector<StepConstants> constants = fixed_constants(t, rates);
    const StepResult read = model_->check_rows(model_->read_gradients(leaves, gradients), gradients, constants);
    if (read.status != StepResult::Status::kStepped || read.value != static_cast<std::int64_t>(leaves.size()))
        return false;
    const Stream stream = current_stream();
    if (stream.captures) return false;
    const Counts counted{counts, py::make_tuple(t)};
    if (!model_->run(gradients, constants, stream.address)) return false;
    counted.advance();
    return true;
}

py::object FastPath::match_inputs(py::handle groups, const py::list& snapshots, py::handle grads) const {
    const auto seen_of = [&](std::size_t i) -> py::tuple { return py::tuple(snapshots[i])[0]; };
    if (!are_as_seen(groups, snapshots.size(), seen_of) || !has_same_containers()) return py::none();
    std::vector<py::object> leaves;
    leaves.reserve(model_->count());
    if (!nesting_.gather(grads, leaves)) return py::none();
    const auto list = py::reinterpret_steal<py::object>(PyList_New(static_cast<Py_ssize_t>(leaves.size())));
    if (!list) throw py::error_already_set();
    for (std::size_t i = 0; i < leaves.size(); ++i)
        PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i), leaves[i].release().ptr());
    return list;
}

py::tuple FastPath::step_with(const py::list& grads, const py::list& group_steps, const py::list& counts) const {
    expect(group_steps.size() == configs_.size(), "a step of each group");
    const Stream stream = current_stream();
    if (stream.captures) return as_tuple({StepResult::Status::kCaptured, 0});

    std::vector<StepConstants> constants;
    constants.reserve(configs_.size());
    std::vector<double> host_constants;
    for (std::size_t i = 0; i < configs_.size(); ++i) {
        const py::tuple step = group_steps[i];
        expect(step.size() == 5, "(options, learning rate, step number, loss scale, host constants)");
        read_values(step[4], host_constants);
        constants.push_back(configs_[i]->constants_for_step(as_number(step[1]), as_integer(step[2]), as_number(step[3]),
                                                            host_constants, model_->types()));
    }

    const auto leaves = objects_of(grads);
    expect(leaves.size() == model_->count(), "one gradient an array");
    Gradients gradients = model_->no_gradients();
    StepResult result = model_->check_rows(model_->read_gradients(leaves, gradients), gradients, constants);
    if (result.status == StepResult::Status::kStepped && result.value < static_cast<std::int64_t>(leaves.size()))
        result = {StepResult::Status::kGradientUnrecognized, 0};
    py::tuple shown = as_tuple(result);  // allocated before the step
    if (result.status != StepResult::Status::kStepped) return shown;
    const Counts counted{counts, py::make_tuple(as_integer(counts[0]) + 1)};
    if (!model_->run(gradients, constants, stream.address)) return as_tuple({StepResult::Status::kSkipped, 0});
    counted.advance();
    return shown;
}

int FastPath::traverse(visitproc visit, void* arg) const {
    if (const int stop = nesting_.traverse(visit, arg)) return stop;
    for (std::size_t i = 0; fixed_ && i < fixed_->size(); ++i)
        if (const int stop = visit(std::get<py::tuple>((*fixed_)[i]).ptr(), arg)) return stop;
    for (const Container& each : containers_)
        if (const int stop = visit(each.object.ptr(), arg)) return stop;
    return stream_ ? visit(stream_.ptr(), arg) : 0;
}

}  // namespace fo
