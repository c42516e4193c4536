// A NumPy array as the loops see it.  Recognises what needs no second look; every other case, and every message, is
// arrays.py's.
#pragma once

#include "call.h"

#include <pybind11/numpy.h>
#include <optional>
#include <vector>

namespace fo {

namespace py = pybind11;

// bfloat16 is another package's dtype; it is named here when arrays.py first meets one.
void set_bfloat16(const py::dtype& dtype);

// Whether it is an ndarray and of no subclass, which might mean its elements otherwise.
bool is_plain_array(py::handle thing);

// The format of an array, if it is one of ours in native byte order.
std::optional<Format> format_of(py::handle array);

// Shape and memory order of an array, kept apart from the array so that a thousand of them lie side by side.
class Layout {
  public:
    explicit Layout(const py::array& array);

    // Whether that array has the same shape and the same elements at the same places.
    bool fits(py::handle array) const;

  private:
    int flags_;
    std::vector<py::ssize_t> shape_, strides_;  // strides in elements
};

// What may change about an array while a plan holds it: NumPy lets a user resize it or lock it.
struct Identity {
    explicit Identity(py::handle array);
    bool operator==(const Identity&) const = default;

    const void* data;
    const void* dtype;
    bool writeable;
};

// The address of an array's first byte.
void* data_of(py::handle array);

// Addresses of the first byte of a dense array and of the one behind its last.
struct Interval {
    std::uintptr_t begin, end;
};
Interval interval_of(const void* data, std::int64_t size, Format format);

}  // namespace fo
