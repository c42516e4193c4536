#include "nesting.h"

#include "references.h"

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

namespace {

// Return the entry with that key, or null.  Usually the keys are the same objects in the same order, so that it is the
// next one of the dict, which saves the look-up.
py::object next_entry(py::handle dict, Py_ssize_t& at, py::handle expected) {
    {
        const py::scoped_critical_section one_thread(dict);
        PyObject *key, *value;
        if (PyDict_Next(dict.ptr(), &at, &key, &value) && key == expected.ptr())
            return py::reinterpret_borrow<py::object>(value);
    }
    return entry_of(dict, expected);
}

}  // namespace

bool Nesting::gather(py::handle tree, std::vector<py::object>& leaves) const {
    if (kind_ == Kind::kLeaf) {
        leaves.push_back(py::reinterpret_borrow<py::object>(tree));
        return true;
    }
    const auto count = static_cast<Py_ssize_t>(children_.size());
    if (kind_ == Kind::kDict) {
        if (!PyDict_CheckExact(tree.ptr()) || PyDict_GET_SIZE(tree.ptr()) != count) return false;
        Py_ssize_t at = 0;
        for (std::size_t i = 0; i < children_.size(); ++i) {
            const py::object entry = next_entry(tree, at, keys_[i]);
            if (!entry || !children_[i].gather(entry, leaves)) return false;
        }
        return true;
    }
    if (!PyList_CheckExact(tree.ptr()) && !PyTuple_CheckExact(tree.ptr())) return false;
    if (PySequence_Fast_GET_SIZE(tree.ptr()) != count) return false;
    for (Py_ssize_t i = 0; i < count; ++i) {
        const Nesting& child = children_[static_cast<std::size_t>(i)];
        py::object entry = entry_of(tree, i);
        if (!entry) return false;
        if (child.kind_ == Kind::kLeaf)
            leaves.push_back(std::move(entry));
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
