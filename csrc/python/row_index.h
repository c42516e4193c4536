// The rows of a gradient: checked, in ascending order, each once.
//
// The indices are copied, so that nobody changes them while a step reads them.  Rows that occur several times keep the
// order of their positions, in which their gradients are added.
#pragma once

#include "../step.h"
#include "array.h"

#include <memory>
#include <optional>
#include <vector>

namespace fo {

class RowIndex {
  public:
    // `index`: one axis of int32 or int64, or a mask of bool, for a parameter of n rows.  Throws std::invalid_argument
    // for another array, and std::out_of_range for an index out of range.
    RowIndex(py::handle index, std::int64_t n);

    // The same, or null where that would throw.
    static std::shared_ptr<const RowIndex> try_make(py::handle index, std::int64_t n);

    // Return every row.
    static std::shared_ptr<RowIndex> all(std::int64_t n);

    // The rows of the gradient: those of the mask, or the indices with those that occur several times.
    std::int64_t gradient_rows() const { return gradient_rows_; }

    // Return the rows as a step uses them, of `row_size` elements.
    Rows view(std::int64_t row_size) const;

    // Divide the rows by the entries of `counts`, one for each row of the parameter, which a step that is taken
    // increments.  Returns the different counts; the rows of the i-th have the constants first + i.
    std::vector<std::int64_t> group(const py::array& counts, std::int32_t first);

    // Count a step of the rows, if they are grouped.
    void count() const;

  private:
    RowIndex() = default;
    void read(py::handle index, std::int64_t n);
    void read_mask(const char* mask, std::int64_t stride, std::int64_t n);
    template <class T>
    void read_indices(const char* indices, std::int64_t stride, std::int64_t count, std::int64_t n);
    void sort(std::int64_t n, bool is_sorted);

    std::int64_t gradient_rows_ = 0;
    bool is_mask_ = false;
    std::vector<std::int64_t> rows_, positions_, begins_;
    std::vector<std::int32_t> constants_;
    py::object counts_;
};

}  // namespace fo
