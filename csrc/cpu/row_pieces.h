// The elements of rows, counted as in a dense array of these rows, divided into pieces of one row each.
#pragma once

#include "../step.h"

#include <algorithm>

namespace fo::FO_TARGET {

struct RowPiece {
    std::int64_t row;     // counted among the rows of the step
    std::int64_t in_row;  // the piece's first element in its row
    std::int64_t at;      // and in the range
    std::int64_t size;
};

// Call f for the pieces of n elements from `begin` on.
template <class F>
void for_row_pieces(const Rows& rows, std::int64_t begin, std::int64_t n, F f) {
    std::int64_t row = begin / rows.row_size, in_row = begin % rows.row_size;
    for (std::int64_t at = 0, size = 0; at < n; at += size, ++row, in_row = 0) {
        size = std::min(rows.row_size - in_row, n - at);
        f(RowPiece{row, in_row, at, size});
    }
}

}  // namespace fo::FO_TARGET
