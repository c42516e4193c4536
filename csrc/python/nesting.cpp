#include "nesting.h"

namespace fo {

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
        PyObject *key, *value;
        Py_ssize_t at = 0;
        for (std::size_t i = 0; i < children_.size(); ++i) {
            // Usually the keys are the same objects in the same order, which saves the look-up.
            const bool is_next = PyDict_Next(tree.ptr(), &at, &key, &value) && key == keys_[i].ptr();
            const py::handle entry = is_next ? value : PyDict_GetItemWithError(tree.ptr(), keys_[i].ptr());
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

int Nesting::traverse(visitproc visit, void* arg) const {
    for (const py::object& key : keys_)
        if (const int stop = visit(key.ptr(), arg)) return stop;
    for (const Nesting& child : children_)
        if (const int stop = child.traverse(visit, arg)) return stop;
    return 0;
}

}  // namespace fo
