#include "array.h"

#include "../expect.h"
#include "../formats.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>

namespace fo {
namespace {

constexpr int kHalf = 23;  // NPY_HALF, which pybind11 does not name

// One more than NumPy's number of each format's dtype, in the order of Format; 0 until another package's is registered.
std::atomic<int> dtype_numbers[kFormatNames.size()] = {py::detail::npy_api::NPY_DOUBLE_ + 1,
                                                       py::detail::npy_api::NPY_FLOAT_ + 1, kHalf + 1};

// NumPy's own objects for its own dtypes; another package's, and an unpickled array's, is found by its number.
struct Common {
    const void* float32 = py::dtype::of<float>().release().ptr();
    const void* float64 = py::dtype::of<double>().release().ptr();
};

const Common& common() {
    static const Common all;
    return all;
}

}  // namespace

void register_dtype(const std::string& format, const py::dtype& dtype) {
    for (std::size_t i = 0; i < kFormatNames.size(); ++i)
        if (format == kFormatNames[i]) return dtype_numbers[i].store(dtype.num() + 1, std::memory_order_relaxed);
    throw std::invalid_argument("format: expected a storage format, got '" + format + "'");
}

// By number and not by identity: an array that was unpickled has a dtype object of its own.
std::optional<Format> format_of(py::handle array) {
    if (raw(array).descr == common().float32) return Format::kFloat32;
    if (raw(array).descr == common().float64) return Format::kFloat64;
    const auto dtype = py::reinterpret_borrow<py::dtype>(raw(array).descr);
    const char order = dtype.byteorder();
    if (order != '=' && order != '|') return std::nullopt;
    const int number = dtype.num();
    for (std::size_t i = 0; i < kFormatNames.size(); ++i)
        if (number + 1 == dtype_numbers[i].load(std::memory_order_relaxed)) return static_cast<Format>(i);
    return std::nullopt;
}

namespace {

// Whether the elements fill one stretch of memory from the first on, in whatever order of the axes.
bool is_dense(const py::array& array) {
    if (array.size() == 0) return true;
    py::ssize_t last = 0;
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
        if (array.shape(axis) > 1 && array.strides(axis) <= 0) return false;
        last += (array.shape(axis) - 1) * array.strides(axis);
    }
    return last + array.itemsize() == array.size() * array.itemsize();
}

}  // namespace

ArrayRef make_array_ref(const py::array& array) {
    const auto format = format_of(array);
    expect(format.has_value(), "an array of a known dtype");
    expect(is_dense(array), "a dense array");
    return {raw(array).data, array.size(), *format};
}

Layout::Layout(const py::array& array)
    : ndim_(static_cast<int>(array.ndim())),
      flags_(array.flags()),
      shape_{},
      whole_shape_(array.shape(), array.shape() + array.ndim()) {
    std::copy_n(whole_shape_.begin(), std::min(ndim_, kNear), shape_.begin());
    for (py::ssize_t i = 0; i < array.ndim(); ++i) strides_.push_back(array.strides(i) / array.itemsize());
}

bool Layout::fits_in_full(py::handle array) const {
    const auto& other = raw(array);
    if (!std::equal(whole_shape_.begin(), whole_shape_.end(), other.dimensions)) return false;
    if (flags_ & other.flags & (py::array::c_style | py::array::f_style)) return true;
    const auto item = py::reinterpret_borrow<py::array>(array).itemsize();
    for (std::size_t i = 0; i < strides_.size(); ++i)
        if (whole_shape_[i] > 1 && strides_[i] * item != other.strides[i]) return false;
    return true;
}

std::optional<Axes> Layout::axes_of(py::handle array) const {
    const auto& other = raw(array);
    if (other.nd != ndim_ || !std::equal(whole_shape_.begin(), whole_shape_.end(), other.dimensions)) return {};
    return axes_of_broadcast(array);
}

std::optional<Axes> Layout::axes_of_broadcast(py::handle array) const {
    const auto& other = raw(array);
    const auto fits = [](auto own, auto given) { return given == own || given == 1; };
    if (other.nd != ndim_ || !std::equal(whole_shape_.begin(), whole_shape_.end(), other.dimensions, fits)) return {};
    std::vector<std::size_t> order;
    for (std::size_t axis = 0; axis < whole_shape_.size(); ++axis) {
        if (whole_shape_[axis] == 0) return {};
        if (whole_shape_[axis] > 1) order.push_back(axis);
    }
    std::sort(order.begin(), order.end(), [this](auto a, auto b) { return strides_[a] > strides_[b]; });
    return axes_in(order, array);
}

std::int64_t Layout::row_size() const {
    std::int64_t size = 1;
    for (std::size_t axis = 1; axis < whole_shape_.size(); ++axis) size *= whole_shape_[axis];
    return size;
}

RowShape Layout::row_shape() const {
    const std::int64_t size = row_size();
    const bool is_apart = ndim_ > 0 && whole_shape_[0] > 1 && !(flags_ & py::array::c_style);
    return {rows(), size, is_apart ? std::int64_t(strides_[0]) : size, nullptr};
}

std::optional<AxisOrder> Layout::order() const {
    if (flags_ & py::array::c_style) return {};
    return AxisOrder{{whole_shape_.begin(), whole_shape_.end()}, {strides_.begin(), strides_.end()}};
}

std::optional<Axes> Layout::axes_of_rows(py::handle array, std::int64_t count) const {
    const auto& other = raw(array);
    if (other.nd != ndim_ || (ndim_ > 0 && other.dimensions[0] != count)) return {};
    if (!(flags_ & py::array::c_style)) return {};
    std::vector<std::size_t> order;
    for (std::size_t axis = 0; axis < whole_shape_.size(); ++axis) {
        if (axis > 0 && other.dimensions[axis] != whole_shape_[axis]) return {};
        if ((axis == 0 ? count : whole_shape_[axis]) > 1) order.push_back(axis);
    }
    if (order.empty()) return Axes{1, {1}, {std::int64_t(py::reinterpret_borrow<py::array>(array).itemsize())}};
    return axes_in(order, array, count);
}

std::optional<Axes> Layout::axes_in(const std::vector<std::size_t>& order, py::handle array,
                                    std::optional<std::int64_t> first_length) const {
    const auto& other = raw(array);
    Axes found{};
    for (const std::size_t axis : order) {
        const std::int64_t length = axis == 0 && first_length ? *first_length : whole_shape_[axis];
        const std::int64_t stride = other.dimensions[axis] == 1 ? 0 : other.strides[axis];
        const int outer = found.count - 1;
        if (found.count > 0 && found.stride[outer] == length * stride) {  // the two are one
            found.length[outer] *= length;
            found.stride[outer] = stride;
        } else if (found.count < Axes::kMost) {
            found.length[found.count] = length;
            found.stride[found.count++] = stride;
        } else {
            return {};
        }
    }
    return found.count > 0 ? std::optional(found) : std::nullopt;
}

Interval interval_of(const void* data, std::int64_t size, Format format) {
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    return {begin, begin + static_cast<std::uintptr_t>(size) * FO_TARGET::item_size(format)};
}

Interval interval_of(const void* data, const Axes& axes, Format format) {
    Interval whole = interval_of(data, 1, format);
    for (int k = 0; k < axes.count; ++k) {
        const std::int64_t reach = axes.stride[k] * (axes.length[k] - 1);
        (reach < 0 ? whole.begin : whole.end) += static_cast<std::uintptr_t>(reach);
    }
    return whole;
}

}  // namespace fo
