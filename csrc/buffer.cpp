#include "buffer.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <stdexcept>

namespace fo {
namespace {

// Never given back: a dtype object must not be destroyed after the interpreter.
std::atomic<PyObject*> bfloat16{nullptr};

const std::array<PyObject*, 3>& builtin_dtypes() {
    static const std::array<PyObject*, 3> all{py::dtype::of<double>().release().ptr(),
                                              py::dtype::of<float>().release().ptr(),
                                              py::dtype("e").release().ptr()};
    return all;
}

}  // namespace

void set_bfloat16(const py::dtype& dtype) {
    bfloat16.store(py::dtype(dtype).release().ptr(), std::memory_order_relaxed);
}

std::optional<Format> format_of(const py::array& array) {
    const PyObject* dtype = array.dtype().ptr();
    const auto& builtin = builtin_dtypes();
    if (dtype == builtin[0]) return Format::kFloat64;
    if (dtype == builtin[1]) return Format::kFloat32;
    if (dtype == builtin[2]) return Format::kFloat16;
    if (dtype == bfloat16.load(std::memory_order_relaxed)) return Format::kBfloat16;
    return std::nullopt;
}

Buffer buffer_of(const py::array& array) {
    const auto format = format_of(array);
    if (!format) throw std::invalid_argument("fastoptim: an array of unknown dtype");
    return {const_cast<void*>(array.data()), array.size(), *format, array.itemsize()};
}

bool same_layout(const py::array& a, const py::array& b) {
    const auto ndim = a.ndim();
    if (ndim != b.ndim() || !std::equal(a.shape(), a.shape() + ndim, b.shape())) return false;
    const int both = a.flags() & b.flags();
    if (both & (py::array::c_style | py::array::f_style)) return true;
    for (py::ssize_t i = 0; i < ndim; ++i)
        if (a.shape(i) > 1 && a.strides(i) * b.itemsize() != b.strides(i) * a.itemsize())
            return false;
    return true;
}

}  // namespace fo
