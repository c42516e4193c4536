// Reads NumPy arrays, and the metadata arrays that describe a GPU's arrays, as the loops see them.  Recognizes ordinary
// arrays quickly; all other cases, and every error message, are in Python (arrays/).
#pragma once

#include "../step.h"

#include <pybind11/numpy.h>
#include <array>
#include <optional>
#include <string>
#include <vector>

namespace fo {

namespace py = pybind11;

// Set the dtype of a format that NumPy itself does not define, such as bfloat16: another package does.
void register_dtype(const std::string& format, const py::dtype& dtype);

// NumPy's own fields, read without touching the reference count.
inline const py::detail::PyArray_Proxy& raw(py::handle array) { return *py::detail::array_proxy(array.ptr()); }

// Whether it is an ndarray and of no subclass, which might mean its elements otherwise.
inline bool is_plain_array(py::handle thing) {
    return Py_TYPE(thing.ptr()) == py::detail::npy_api::get().PyArray_Type_;
}

// Return the format of an array, or nothing if it has another dtype or byte order.
std::optional<Format> format_of(py::handle array);

// Describe an array.  Throws std::invalid_argument for a dtype that is not a format, and for an array with gaps.
ArrayRef make_array_ref(const py::array& array);

// Shape and memory order of an array, kept apart from the array so that a thousand of them lie side by side.
class Layout {
  public:
    explicit Layout(const py::array& array);

    // Where the elements of an array of the same shape are, in this order of memory; nothing if it has another shape,
    // no elements or too many axes.
    std::optional<Axes> axes_of(py::handle array) const;

    // The same for an array that is broadcast to this shape: its axes may also have the length 1.
    std::optional<Axes> axes_of_broadcast(py::handle array) const;

    // The same for an array with other rows, `count` of them; nothing also if this layout is not in C order.
    std::optional<Axes> axes_of_rows(py::handle array, std::int64_t count) const;

    // The length of the first axis, or 1 without axes; the elements of a row.
    std::int64_t rows() const { return ndim_ == 0 ? 1 : whole_shape_[0]; }
    std::int64_t row_size() const;

    // The rows in this order of memory.
    RowShape row_shape() const;

    // Return the order of an array that is not in C order.
    std::optional<AxisOrder> order() const;

    // Whether that array has the same shape and the same elements at the same places.
    bool fits(py::handle array) const {
        const auto& other = raw(array);
        if (other.nd != ndim_) return false;
        for (int i = 0; i < ndim_ && i < kNear; ++i)
            if (other.dimensions[i] != shape_[i]) return false;
        if (ndim_ <= kNear && (flags_ & other.flags & (py::array::c_style | py::array::f_style))) return true;
        return fits_in_full(array);
    }

  private:
    static constexpr int kNear = 4;  // axes whose lengths are in shape_

    bool fits_in_full(py::handle array) const;
    std::optional<Axes> axes_in(const std::vector<std::size_t>& order, py::handle array,
                                std::optional<std::int64_t> first_length = {}) const;

    int ndim_, flags_;
    std::array<py::ssize_t, kNear> shape_;
    std::vector<py::ssize_t> whole_shape_, strides_;  // strides in elements
};

// What may change about an array while a plan holds it: NumPy lets a user resize it or lock it.
class Identity {
  public:
    explicit Identity(py::handle array)
        : data_(raw(array).data),
          dtype_(py::reinterpret_borrow<py::object>(raw(array).descr)),
          writeable_(is_writeable(array)) {}

    bool is_of(py::handle array) const {
        return raw(array).data == data_ && raw(array).descr == dtype_.ptr() && is_writeable(array) == writeable_;
    }

  private:
    static bool is_writeable(py::handle array) {
        return (raw(array).flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) != 0;
    }

    const void* data_;
    py::object dtype_;  // kept alive, or another dtype could come to have its address
    bool writeable_;
};

// Addresses of the first byte of a dense array and of the one behind its last.
struct Interval {
    std::uintptr_t begin, end;
};
Interval interval_of(const void* data, std::int64_t size, Format format);
Interval interval_of(const void* data, const Axes& axes, Format format);

}  // namespace fo
