// A NumPy array as the loops see it.  Recognises what needs no second look; every other case, and every message, is
// arrays.py's.
#pragma once

#include "call.h"

#include <pybind11/numpy.h>
#include <optional>

namespace fo {

namespace py = pybind11;

// bfloat16 is another package's dtype; it is named here when arrays.py first meets one.
void set_bfloat16(const py::dtype& dtype);

// The array's format, if its dtype is one of the canonical dtype objects.
std::optional<Format> format_of(const py::array& array);

// Whether two arrays have the same shape and the same elements at the same places.
bool same_layout(const py::array& a, const py::array& b);

// Addresses of the first byte of a dense array and of the one behind its last.
struct Interval {
    std::uintptr_t begin, end;
};
Interval interval_of(const void* data, std::int64_t size, Format format);

}  // namespace fo
