#include "repeat.h"

namespace fo {
namespace {

// A group's options by identity, in the order of the dict: an option that was assigned is another object.
bool same_values(py::handle group, const py::tuple& seen) {
    if (!PyDict_Check(group.ptr()) || PyDict_GET_SIZE(group.ptr()) != PyTuple_GET_SIZE(seen.ptr())) return false;
    PyObject *key, *value;
    for (Py_ssize_t at = 0, i = 0; PyDict_Next(group.ptr(), &at, &key, &value); ++i)
        if (value != PyTuple_GET_ITEM(seen.ptr(), i)) return false;
    return true;
}

double number(py::handle value) {
    const double read = PyFloat_AsDouble(value.ptr());
    if (read == -1 && PyErr_Occurred()) throw py::error_already_set();
    return read;
}

// The values of a dict of numbers, in its order.
void read_values(py::handle dict, std::vector<double>& values) {
    if (!PyDict_Check(dict.ptr())) throw std::invalid_argument("expected a dict of numbers");
    values.clear();
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(dict.ptr(), &at, &key, &value);) values.push_back(number(value));
}

// What a tuple begins with, which is a tuple too.
py::tuple first_of(const py::tuple& tuple) { return tuple[0]; }

// The same of all groups; `values_of(i)` are those of the i-th.
template <class ValuesOf>
bool same_groups(py::handle groups, std::size_t count, ValuesOf values_of) {
    if (!PyList_Check(groups.ptr()) || PyList_GET_SIZE(groups.ptr()) != static_cast<Py_ssize_t>(count)) return false;
    for (std::size_t i = 0; i < count; ++i)
        if (!same_values(PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(i)), values_of(i))) return false;
    return true;
}

}  // namespace

Nesting::Nesting(const py::object& description) {
    if (description.is_none()) {
        kind_ = Kind::kLeaf;
    } else if (py::isinstance<py::dict>(description)) {
        kind_ = Kind::kDict;
        for (const auto& [key, child] : py::reinterpret_borrow<py::dict>(description)) {
            keys_.push_back(py::reinterpret_borrow<py::object>(key));
            children_.emplace_back(py::reinterpret_borrow<py::object>(child));
        }
    } else {
        kind_ = Kind::kSequence;
        for (const auto child : py::cast<py::tuple>(description))
            children_.emplace_back(py::reinterpret_borrow<py::object>(child));
    }
}

bool Nesting::gather(py::handle tree, std::vector<py::object>& leaves) const {
    if (kind_ == Kind::kLeaf) {
        leaves.push_back(py::reinterpret_borrow<py::object>(tree));
        return true;
    }
    const auto count = static_cast<Py_ssize_t>(children_.size());
    if (kind_ == Kind::kDict) {
        if (!PyDict_CheckExact(tree.ptr()) || PyDict_GET_SIZE(tree.ptr()) != count) return false;
        for (std::size_t i = 0; i < children_.size(); ++i) {
            const py::handle entry = PyDict_GetItemWithError(tree.ptr(), keys_[i].ptr());
            if (!entry && PyErr_Occurred()) throw py::error_already_set();
            if (!entry || !children_[i].gather(entry, leaves)) return false;
        }
        return true;
    }
    if (!PyList_CheckExact(tree.ptr()) && !PyTuple_CheckExact(tree.ptr())) return false;
    if (PySequence_Fast_GET_SIZE(tree.ptr()) != count) return false;
    for (Py_ssize_t i = 0; i < count; ++i) {
        const Nesting& child = children_[static_cast<std::size_t>(i)];
        const py::handle entry = PySequence_Fast_GET_ITEM(tree.ptr(), i);
        if (child.kind_ == Kind::kLeaf)
            leaves.push_back(py::reinterpret_borrow<py::object>(entry));
        else if (!child.gather(entry, leaves))
            return false;
    }
    return true;
}

Repeat::Repeat(std::shared_ptr<const Plan> plan, const py::object& nesting,
               std::vector<std::shared_ptr<const UpdateConfig>> configs)
    : plan_(std::move(plan)), nesting_(nesting), configs_(std::move(configs)) {
    std::vector<StepConstants> constants;
    for (const auto& hyper : configs_)
        constants.push_back(hyper->constants_for_step(0, 1, 1, std::vector<double>(hyper->host_constants_at.size())));
    plan_->expect_groups(constants);
}

py::object Repeat::match(py::handle groups, const py::list& seen, py::handle grads) const {
    std::vector<py::object> leaves;
    leaves.reserve(plan_->count());
    if (!same_groups(groups, seen.size(), [&](std::size_t i) { return first_of(seen[i]); })) return py::none();
    if (!nesting_.gather(grads, leaves)) return py::none();
    py::list list(leaves.size());
    for (std::size_t i = 0; i < leaves.size(); ++i)
        PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i), leaves[i].release().ptr());
    return list;
}

std::int64_t Repeat::step(const py::list& grads, const py::list& group_steps) const {
    if (group_steps.size() != configs_.size()) throw std::invalid_argument("expected an update a group");
    std::vector<StepConstants> constants;
    constants.reserve(configs_.size());
    std::vector<double> host_constants;
    for (std::size_t i = 0; i < configs_.size(); ++i) {
        const py::tuple update = group_steps[i];
        if (update.size() != 5) throw std::invalid_argument("expected an update");
        read_values(update[4], host_constants);
        const auto t = PyLong_AsLongLong(py::handle(update[2]).ptr());
        if (t == -1 && PyErr_Occurred()) throw py::error_already_set();
        constants.push_back(
            configs_[i]->constants_for_step(number(update[1]), t, number(update[3]), host_constants, plan_->types()));
    }
    return plan_->step(grads, plan_->groups(), constants);
}

Steady::Steady(std::shared_ptr<const Repeat> repeat, std::vector<Group> groups)
    : repeat_(std::move(repeat)), groups_(std::move(groups)) {
    if (groups_.size() != repeat_->configs_.size()) throw std::invalid_argument("expected what each group was");
    scalars_at(1);
}

std::vector<StepConstants> Steady::scalars_at(std::int64_t t) const {
    std::vector<StepConstants> constants;
    constants.reserve(groups_.size());
    for (std::size_t i = 0; i < groups_.size(); ++i) {
        const auto& [seen, lr, grad_scale, host_constants] = groups_[i];
        constants.push_back(
            repeat_->configs_[i]->constants_for_step(lr, t, grad_scale, host_constants, repeat_->plan_->types()));
    }
    return constants;
}

bool Steady::step(py::handle groups, py::handle grads, std::int64_t step_count) const {
    const Plan& plan = *repeat_->plan_;
    const auto values_of = [this](std::size_t i) -> const py::tuple& { return std::get<py::tuple>(groups_[i]); };
    if (!same_groups(groups, groups_.size(), values_of)) return false;
    std::vector<py::object> leaves;
    leaves.reserve(plan.count());
    std::vector<Gradient> gradients = plan.no_gradients();
    if (!repeat_->nesting_.gather(grads, leaves) || leaves.size() != plan.count()) return false;
    if (plan.take(leaves, gradients) != static_cast<std::int64_t>(leaves.size())) return false;
    std::vector<StepConstants> constants = scalars_at(step_count + 1);
    return plan.run(gradients, constants);
}

}  // namespace fo
