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

Repeat::Repeat(std::shared_ptr<const Plan> plan, const py::object& nesting, std::vector<Group> groups)
    : plan_(std::move(plan)), nesting_(nesting), groups_(std::move(groups)) {
    plan_->expect_groups(scalars_of(1));
}

bool Repeat::unchanged(py::handle groups) const {
    if (!PyList_Check(groups.ptr()) || PyList_GET_SIZE(groups.ptr()) != static_cast<Py_ssize_t>(groups_.size()))
        return false;
    for (std::size_t i = 0; i < groups_.size(); ++i)
        if (!same_values(PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(i)), std::get<py::tuple>(groups_[i])))
            return false;
    return true;
}

std::vector<Scalars> Repeat::scalars_of(std::int64_t t) const {
    std::vector<Scalars> scalars;
    scalars.reserve(groups_.size());
    for (const auto& [seen, lr, hyper] : groups_) scalars.push_back(hyper->at(lr, t, 1, {}));
    return scalars;
}

bool Repeat::step(py::handle groups, py::handle grads, std::int64_t step_count) const {
    if (!unchanged(groups)) return false;
    std::vector<py::object> leaves;
    leaves.reserve(plan_->count());
    std::vector<Gradient> gradients = plan_->no_gradients();
    if (!nesting_.gather(grads, leaves) || leaves.size() != plan_->count()) return false;
    if (plan_->take(leaves, gradients) != static_cast<std::int64_t>(leaves.size())) return false;
    std::vector<Scalars> scalars = scalars_of(step_count + 1);
    return plan_->run(gradients, scalars);
}

}  // namespace fo
