// The structure of a model's parameters: a nesting of exact dicts, lists and tuples, whose leaves are arrays.
#pragma once

#include <pybind11/pybind11.h>
#include <vector>

namespace fo {

namespace py = pybind11;

class Nesting {
  public:
    // `description`: None for a leaf, a tuple of descriptions for a list or tuple, a dict of them for a dict.
    explicit Nesting(const py::object& description);

    // Append the leaves of `tree`; return false if it has another structure.
    bool gather(py::handle tree, std::vector<py::object>& leaves) const;

    // Visit every Python object that it holds, for the garbage collector.
    int traverse(visitproc visit, void* arg) const;

  private:
    enum class Kind { kLeaf, kSequence, kDict };
    Kind kind_;
    std::vector<py::object> keys_;
    std::vector<Nesting> children_;
};

}  // namespace fo
