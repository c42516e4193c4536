#include "gpu_axes.h"

#include "../cuda/cuda.h"
#include "../expect.h"
#include "array.h"
#include "gil.h"

#include <pybind11/stl.h>
#include <optional>
#include <tuple>
#include <vector>

namespace fo {
namespace {

using Index = std::int64_t;
using Optional = std::optional<py::array>;

cuda::Stream stream_at(int device, std::uintptr_t handle) { return {device, reinterpret_cast<void*>(handle)}; }

// Return the address of an array in C order with at least so many elements of this format.
void* address_of(const py::array& array, Format format, Index size) {
    expect((array.flags() & py::array::c_style) && format_of(array) == format && array.size() >= size,
           "an array in C order of this dtype and size");
    return raw(array).data;
}

double* doubles_of(const py::array& array, Index size) {
    return static_cast<double*>(address_of(array, Format::kFloat64, size));
}

double* doubles_of(const Optional& array, Index size) { return array ? doubles_of(*array, size) : nullptr; }

char* values_of(const py::array& array, Format format, Index size) {
    return static_cast<char*>(address_of(array, format, size));
}

Format compute_format_of(const py::array& array) {
    const auto format = format_of(array);
    expect(format && *format == compute_format(*format), "an array of float64 or float32");
    return *format;
}

cuda::AxisWork shape_of(Index batch, Index rows, Index columns) {
    cuda::AxisWork work{};
    work.batch = batch, work.rows = rows, work.columns = columns;
    return work;
}

Index row_partials_of(const cuda::AxisWork& work) { return work.batch * work.rows * work.strips(); }

Index axis_scratch(Index batch, Index rows, Index columns) {
    const cuda::AxisWork work = shape_of(batch, rows, columns);
    return row_partials_of(work) + batch * work.blocks() * columns;
}

void reduce_axes(const py::array& matrices, Index batch, Index rows, Index columns, const py::array& scratch,
                 const Optional& of_rows, const Optional& of_columns, bool largest, double scale, int where,
                 std::uintptr_t stream) {
    const auto format = format_of(matrices);
    expect(format && matrices.size() == batch * rows * columns && matrices.size() > 0, "matrices with elements");
    cuda::AxisWork work = shape_of(batch, rows, columns);
    double* const partials = doubles_of(scratch, axis_scratch(batch, rows, columns));
    work.data = values_of(matrices, *format, matrices.size());
    work.format = *format;
    work.scale = scale;
    work.row_results = doubles_of(of_rows, batch * rows);
    work.column_results = doubles_of(of_columns, batch * columns);
    if (of_rows) work.row_partials = partials;
    if (of_columns) work.column_partials = partials + row_partials_of(work);
    const GilRelease unlocked;
    cuda::reduce_axes(work, largest, stream_at(where, stream));
}

void add_groups(const py::array& numbers, Index groups, std::uint32_t group, int where, std::uintptr_t stream) {
    const cuda::GroupsWork work{doubles_of(numbers, groups * group), groups, group};
    const GilRelease unlocked;
    cuda::add_groups(work, stream_at(where, stream));
}

// sums, numbers in a group of them, old averages, new ones, the same in double, factors, count, eps, weight, divisor,
// summand
using MomentArguments =
    std::tuple<py::array, Index, py::array, py::array, Optional, Optional, double, double, double, double, double>;

cuda::Moment moment_of(const MomentArguments& arguments, Format format) {
    const auto& [sums, group, old, updated, wide, factors, count, eps, weight, divisor, summand] = arguments;
    const Index size = old.size(), repeats = factors ? factors->size() / size : 1;
    expect(!factors || factors->size() == size * repeats, "equally many factors for each average");
    return {doubles_of(sums, size * group),
            values_of(old, format, size),
            values_of(updated, format, size),
            doubles_of(wide, size),
            factors ? values_of(*factors, format, size * repeats) : nullptr,
            size,
            group,
            repeats,
            count,
            eps,
            weight,
            divisor,
            summand};
}

void update_moments(const std::vector<MomentArguments>& moments, int where, std::uintptr_t stream) {
    expect(!moments.empty() && moments.size() <= cuda::MomentsWork::kMost, "one or two moments");
    const Format format = compute_format_of(std::get<2>(moments[0]));
    cuda::MomentsWork work{};
    for (const MomentArguments& each : moments) work.moments[work.count++] = moment_of(each, format);
    const GilRelease unlocked;
    cuda::update_moments(work, format == Format::kFloat64, stream_at(where, stream));
}

void set_row_factors(const py::array& averages, const py::array& totals, const py::array& factors, Index rows,
                     double least, int where, std::uintptr_t stream) {
    const Format format = compute_format_of(averages);
    const Index size = averages.size();
    const cuda::RowFactorsWork work{values_of(averages, format, size),
                                    doubles_of(totals, size),
                                    values_of(factors, format, size),
                                    size,
                                    rows,
                                    least};
    const GilRelease unlocked;
    cuda::set_row_factors(work, format == Format::kFloat64, stream_at(where, stream));
}

// sums of squares, and those of elements times the scales of square_scale
using UnitArguments = std::tuple<py::array, Optional, Optional>;

cuda::UnitSums unit_sums(const UnitArguments& arguments, Index units) {
    const auto& [squares, scaled_down, scaled_up] = arguments;
    return {doubles_of(squares, units), doubles_of(scaled_down, units), doubles_of(scaled_up, units)};
}

void set_clip_factors(const UnitArguments& params, const UnitArguments& gradients, const py::array& factors,
                      double clipping, double eps, int where, std::uintptr_t stream) {
    const Index units = factors.size() / 2;
    const cuda::ClipFactorsWork work{unit_sums(params, units),
                                     unit_sums(gradients, units),
                                     doubles_of(factors, 2 * units + 1),
                                     units,
                                     clipping,
                                     eps};
    const GilRelease unlocked;
    cuda::set_clip_factors(work, stream_at(where, stream));
}

void clip_units(const py::array& gradient, const py::array& factors, bool is_last_axis, const py::array& clipped,
                int where, std::uintptr_t stream) {
    const auto format = format_of(gradient);
    expect(format.has_value(), "a gradient of a known dtype");
    const Index size = gradient.size(), units = factors.size() / 2;
    expect(units > 0 && size > 0 && size % units == 0, "a gradient of whole units");
    const cuda::ClipUnitsWork work{values_of(gradient, *format, size),
                                   values_of(clipped, *format, size),
                                   doubles_of(factors, 2 * units + 1),
                                   size,
                                   units,
                                   is_last_axis,
                                   *format};
    const GilRelease unlocked;
    cuda::clip_units(work, stream_at(where, stream));
}

}  // namespace

void export_gpu_axes(py::module_& m) {
    m.def("cuda_axis_scratch", &axis_scratch, py::arg("batch"), py::arg("rows"), py::arg("columns"));
    m.def("cuda_reduce_axes", &reduce_axes, py::arg("matrices"), py::arg("batch"), py::arg("rows"), py::arg("columns"),
          py::arg("scratch"), py::arg("of_rows"), py::arg("of_columns"), py::arg("largest"), py::arg("scale"),
          py::arg("where"), py::arg("stream"));
    m.def("cuda_add_groups", &add_groups, py::arg("numbers"), py::arg("groups"), py::arg("group"), py::arg("where"),
          py::arg("stream"));
    m.def("cuda_update_moments", &update_moments, py::arg("moments"), py::arg("where"), py::arg("stream"));
    m.def("cuda_set_row_factors", &set_row_factors, py::arg("averages"), py::arg("totals"), py::arg("factors"),
          py::arg("rows"), py::arg("least"), py::arg("where"), py::arg("stream"));
    m.def("cuda_set_clip_factors", &set_clip_factors, py::arg("params"), py::arg("gradients"), py::arg("factors"),
          py::arg("clipping"), py::arg("eps"), py::arg("where"), py::arg("stream"));
    m.def("cuda_clip_units", &clip_units, py::arg("gradient"), py::arg("factors"), py::arg("is_last_axis"),
          py::arg("clipped"), py::arg("where"), py::arg("stream"));
}

}  // namespace fo
