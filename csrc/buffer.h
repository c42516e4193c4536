// A NumPy array as the loops see it.  Recognises what needs no second look; everything else, and every message, is
// arrays.py's.
#pragma once

#include "call.h"

#include <optional>
#include <pybind11/numpy.h>

namespace fo {

namespace py = pybind11;

struct Buffer {
    void* data;
    std::int64_t size;
    Format format;
    std::int64_t bytes() const { return size * item_bytes; }
    std::int64_t item_bytes;
};

// bfloat16 is another package's dtype; arrays.py names it here when it first meets one.
void set_bfloat16(const py::dtype& dtype);

// The array's format, if its dtype is one of the canonical dtype objects.
std::optional<Format> format_of(const py::array& array);

// A dense array, checked by arrays.py before.  Throws std::invalid_argument for an unknown dtype.
Buffer buffer_of(const py::array& array);

// Whether two arrays have the same shape and the same elements at the same places.
bool same_layout(const py::array& a, const py::array& b);

}  // namespace fo
