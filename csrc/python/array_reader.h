// Reads the address of an array of another library (CuPy, PyTorch) natively, for arrays like one that Python has
// checked.
#pragma once

#include <pybind11/pybind11.h>
#include <cstdint>
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

    // Whether the array has these key values; false also where an attribute is missing.
    bool matches(py::handle array, const Key& key) const;

  private:
    struct Attribute {
        py::object name;
        bool is_method;
    };
    using Path = std::vector<Attribute>;

    static Path parse(const std::string& path);
    static py::object read(const Path& path, py::handle array);

    std::vector<Path> key_;
    Path address_;
};

}  // namespace fo
