#include "buffer.h"

#include "storage.h"

#include <algorithm>
#include <atomic>

namespace fo {
namespace {

constexpr int kHalf = 23;  // NPY_HALF, which pybind11 does not name

// NumPy's number for another package's dtype; none yet.
std::atomic<int> bfloat16{-1};

// NumPy's own fields, read without touching the reference count.
const py::detail::PyArray_Proxy& raw(py::handle array) { return *py::detail::array_proxy(array.ptr()); }

}  // namespace

void set_bfloat16(const py::dtype& dtype) { bfloat16.store(dtype.num(), std::memory_order_relaxed); }

bool is_plain_array(py::handle thing) { return Py_TYPE(thing.ptr()) == py::detail::npy_api::get().PyArray_Type_; }

// By number and not by identity: an array that was unpickled has a dtype object of its own.
std::optional<Format> format_of(py::handle array) {
    const auto dtype = py::reinterpret_borrow<py::dtype>(raw(array).descr);
    const char order = dtype.byteorder();
    if (order != '=' && order != '|') return std::nullopt;
    const int number = dtype.num();
    if (number == py::detail::npy_api::NPY_FLOAT_) return Format::kFloat32;
    if (number == py::detail::npy_api::NPY_DOUBLE_) return Format::kFloat64;
    if (number == kHalf) return Format::kFloat16;
    if (number == bfloat16.load(std::memory_order_relaxed)) return Format::kBfloat16;
    return std::nullopt;
}

Layout::Layout(const py::array& array) : flags_(array.flags()), shape_(array.shape(), array.shape() + array.ndim()) {
    for (py::ssize_t i = 0; i < array.ndim(); ++i) strides_.push_back(array.strides(i) / array.itemsize());
}

bool Layout::fits(py::handle array) const {
    const auto& other = raw(array);
    if (static_cast<std::size_t>(other.nd) != shape_.size()) return false;
    if (!std::equal(shape_.begin(), shape_.end(), other.dimensions)) return false;
    if (flags_ & other.flags & (py::array::c_style | py::array::f_style)) return true;
    const auto item = py::reinterpret_borrow<py::array>(array).itemsize();
    for (std::size_t i = 0; i < shape_.size(); ++i)
        if (shape_[i] > 1 && strides_[i] * item != other.strides[i]) return false;
    return true;
}

Identity::Identity(py::handle array)
    : data(raw(array).data),
      dtype(raw(array).descr),
      writeable((raw(array).flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0) {}

void* data_of(py::handle array) { return raw(array).data; }

Interval interval_of(const void* data, std::int64_t size, Format format) {
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    return {begin, begin + static_cast<std::uintptr_t>(size) * FO_TARGET::item_size(format)};
}

}  // namespace fo
