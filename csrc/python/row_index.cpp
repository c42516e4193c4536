#include "row_index.h"

#include "../expect.h"

#include <algorithm>
#include <array>
#include <bit>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

namespace fo {
namespace {

constexpr int kDigitBits = 11;

using Index = std::int64_t;

// Sort rows below n, and their positions with them, by one digit after another.  Equal rows keep their order.
void radix_sort(std::vector<Index>& rows, std::vector<Index>& positions, Index n) {
    std::vector<Index> sorted_rows(rows.size()), sorted_positions(rows.size());
    const int bits = std::bit_width(static_cast<std::uint64_t>(n - 1));
    for (int shift = 0; shift < bits; shift += kDigitBits) {
        constexpr std::size_t kDigits = 1 << kDigitBits;
        const auto digit = [shift](Index row) { return static_cast<std::size_t>(row >> shift) % kDigits; };
        std::array<std::size_t, kDigits> next{};
        for (const Index row : rows) ++next[digit(row)];
        std::size_t sum = 0;
        for (std::size_t& each : next) sum += std::exchange(each, sum);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            const std::size_t at = next[digit(rows[i])]++;
            sorted_rows[at] = rows[i];
            sorted_positions[at] = positions[i];
        }
        rows.swap(sorted_rows);
        positions.swap(sorted_positions);
    }
}

}  // namespace

RowIndex::RowIndex(py::handle index, Index n) { read(index, n); }

std::shared_ptr<const RowIndex> RowIndex::try_make(py::handle index, Index n) {
    const auto made = std::shared_ptr<RowIndex>(new RowIndex);
    try {
        made->read(index, n);
    } catch (const std::logic_error&) {
        return nullptr;
    }
    return made;
}

std::shared_ptr<RowIndex> RowIndex::all(Index n) {
    const auto made = std::shared_ptr<RowIndex>(new RowIndex);
    made->rows_.resize(static_cast<std::size_t>(n));
    for (Index i = 0; i < n; ++i) made->rows_[static_cast<std::size_t>(i)] = i;
    made->gradient_rows_ = n;
    return made;
}

void RowIndex::read(py::handle index, Index n) {
    expect(is_plain_array(index) && raw(index).nd == 1, "an array of one axis");
    const auto dtype = py::reinterpret_borrow<py::dtype>(raw(index).descr);
    const auto* data = raw(index).data;
    const Index stride = raw(index).strides[0], count = raw(index).dimensions[0];
    const bool is_native = dtype.byteorder() == '=' || dtype.byteorder() == '|';
    if (dtype.kind() == 'b') {
        expect(count == n, "a mask of the parameter's rows");
        read_mask(data, stride, n);
    } else {
        expect(is_native && dtype.kind() == 'i' && (dtype.itemsize() == 4 || dtype.itemsize() == 8),
               "indices of int32 or int64");
        if (dtype.itemsize() == 4)
            read_indices<std::int32_t>(data, stride, count, n);
        else
            read_indices<std::int64_t>(data, stride, count, n);
    }
}

void RowIndex::read_mask(const char* mask, Index stride, Index n) {
    Index count = 0;
    for (Index i = 0; i < n; ++i) count += mask[i * stride] != 0;
    rows_.resize(static_cast<std::size_t>(count) + 1);
    Index* to = rows_.data();
    for (Index i = 0; i < n && to < rows_.data() + count; ++i) {
        *to = i;
        to += mask[i * stride] != 0;
    }
    rows_.pop_back();
    is_mask_ = true;
    gradient_rows_ = n;
}

template <class T>
void RowIndex::read_indices(const char* indices, Index stride, Index count, Index n) {
    const auto at = [=](Index i) {
        T row;
        std::memcpy(&row, indices + i * stride, sizeof row);
        return Index(row);
    };
    rows_.resize(static_cast<std::size_t>(count));
    bool in_range = true, ascending = true, unique = true;
    Index before = -1;
    for (Index i = 0; i < count; ++i) {
        const Index row = at(i);
        in_range &= static_cast<std::uint64_t>(row) < static_cast<std::uint64_t>(n);
        ascending &= before <= row;
        unique &= before != row;
        before = rows_[static_cast<std::size_t>(i)] = row;
    }
    if (!in_range) {
        Index i = 0;
        while (at(i) >= 0 && at(i) < n) ++i;
        throw std::out_of_range("expected indices from 0 to " + std::to_string(n - 1) + ", got " +
                                std::to_string(at(i)) + " at position " + std::to_string(i));
    }
    gradient_rows_ = count;
    if (!ascending || !unique) sort(n, ascending);
}

void RowIndex::sort(Index n, bool is_sorted) {
    const std::size_t count = rows_.size();
    positions_.resize(count);
    for (std::size_t i = 0; i < count; ++i) positions_[i] = Index(i);
    if (!is_sorted) radix_sort(rows_, positions_, n);
    std::size_t unique = 0;
    for (std::size_t i = 0; i < count; ++i) {
        if (i > 0 && rows_[i] == rows_[unique - 1]) continue;
        begins_.push_back(Index(i));
        rows_[unique++] = rows_[i];
    }
    rows_.resize(unique);
    if (unique == count)
        begins_.clear();
    else
        begins_.push_back(Index(count));
}

Rows RowIndex::view(Index row_size) const {
    const auto data_of = [](const auto& values) { return values.empty() ? nullptr : values.data(); };
    return {Index(rows_.size()), row_size,           rows_.data(), is_mask_ ? rows_.data() : data_of(positions_),
            data_of(begins_),    data_of(constants_)};
}

std::vector<Index> RowIndex::group(const py::array& counts, std::int32_t first) {
    expect(py::isinstance<py::array_t<Index>>(counts) && counts.ndim() == 1 && counts.writeable() &&
               (counts.flags() & py::array::c_style) && (rows_.empty() || rows_.back() < counts.shape(0)),
           "one int64 count for each row");
    const auto* const count_of = static_cast<const Index*>(counts.data());
    counts_ = counts;
    std::vector<Index> different;
    std::unordered_map<Index, std::int32_t> known;
    constants_.clear();
    constants_.reserve(rows_.size());
    for (const Index row : rows_) {
        if (constants_.empty() || different[static_cast<std::size_t>(constants_.back() - first)] != count_of[row]) {
            const auto [at, is_new] =
                known.try_emplace(count_of[row], static_cast<std::int32_t>(first + Index(different.size())));
            if (is_new) different.push_back(count_of[row]);
            constants_.push_back(at->second);
        } else {
            constants_.push_back(constants_.back());
        }
    }
    return different;
}

void RowIndex::count() const {
    if (!counts_) return;
    auto* const counts = static_cast<Index*>(py::reinterpret_borrow<py::array>(counts_).mutable_data());
    for (const Index row : rows_) ++counts[row];
}

}  // namespace fo
