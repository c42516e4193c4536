#include "buffer.h"

#include "storage.h"

#include <algorithm>
#include <array>
#include <atomic>

namespace fo {
namespace {

// Never given back: the last owner would be destroyed after the interpreter.
std::atomic<PyObject*> bfloat16{nullptr};

struct Dtypes {
    PyObject* float64 = py::dtype("d").release().ptr();
    PyObject* float32 = py::dtype("f").release().ptr();
    PyObject* float16 = py::dtype("e").release().ptr();
};

const Dtypes& dtypes() {
    static const Dtypes all;
    return all;
}

}  // namespace

void set_bfloat16(const py::dtype& dtype) {
    bfloat16.store(py::dtype(dtype).release().ptr(), std::memory_order_relaxed);
}

std::optional<Format> format_of(const py::array& array) {
    const PyObject* dtype = array.dtype().ptr();
    if (dtype == dtypes().float32) return Format::kFloat32;
    if (dtype == dtypes().float64) return Format::kFloat64;
    if (dtype == dtypes().float16) return Format::kFloat16;
    if (dtype == bfloat16.load(std::memory_order_relaxed)) return Format::kBfloat16;
    return std::nullopt;
}

bool same_layout(const py::array& a, const py::array& b) {
    const auto ndim = a.ndim();
    if (ndim != b.ndim() || !std::equal(a.shape(), a.shape() + ndim, b.shape())) return false;
    if (a.flags() & b.flags() & (py::array::c_style | py::array::f_style)) return true;
    const auto a_item = a.itemsize(), b_item = b.itemsize();
    for (py::ssize_t i = 0; i < ndim; ++i)
        if (a.shape(i) > 1 && a.strides(i) * b_item != b.strides(i) * a_item) return false;
    return true;
}

Interval interval_of(const void* data, std::int64_t size, Format format) {
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    return {begin, begin + static_cast<std::uintptr_t>(size) * FO_TARGET::item_size(format)};
}

}  // namespace fo
