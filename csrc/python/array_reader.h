// Reads the address of an array of another library (CuPy, PyTorch) natively, for arrays like one that Python has
// checked.
#pragma once

#include <pybind11/pybind11.h>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fo {

namespace py = pybind11;

class ArrayReader {
  public:
    using Key = std::vector<py::object>;

    // Paths like "data.ptr" or "stride()": attributes, and methods without arguments.  Arrays whose `key` values are
    // equal differ in nothing but their address and elements.
    ArrayReader(const std::vector<std::string>& key, const std::string& address);

    // These throw py::error_already_set where an attribute is missing.
    Key key_of(py::handle array) const;
    std::uintptr_t address_of(py::handle array) const;

    // Return the address of an array that has these key values; nothing if it has others, or lacks an attribute.
    std::optional<std::uintptr_t> address_if_like(py::handle array, const Key& key) const;

  private:
    struct Attribute {
        py::object name;
        bool is_method;

        py::object of(py::handle owner) const;  // null, with Python's error set, where it is missing
    };

    // An attribute of the array, and those of its value; each is one of the key's or the address.
    struct Branch {
        Attribute root;
        int index;  // in the key; kAddress; or kNone if only attributes of its value are wanted
        std::vector<std::pair<Attribute, int>> leaves;
    };
    static constexpr int kAddress = -1, kNone = -2;

    static Attribute parse(std::string name);
    void add(const std::string& path, int index);

    // Call f(index, value) for each value; f returns whether to continue.  Returns whether all were visited.
    template <class F>
    bool visit(py::handle array, F f) const;

    std::vector<Branch> branches_;  // roots are distinct, so that each is read once
    std::size_t key_size_;
};

}  // namespace fo
