#include "row_buffers.h"

#include "../block_codes.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace fo::cuda {
namespace {

using namespace FO_TARGET;
using Index = std::int64_t;

std::size_t bytes_of(Index size, Format format) { return std::size_t(size) * item_size(format); }

std::size_t whole_vectors(std::size_t bytes) { return (bytes + sizeof(Vector) - 1) / sizeof(Vector) * sizeof(Vector); }

// Return the most bytes, a power of two up to 16, that divide a row of an array and its address.
std::size_t unit_bytes(const void* array, std::size_t row_bytes) {
    const std::size_t bits = reinterpret_cast<std::uintptr_t>(array) | row_bytes | sizeof(Vector);
    return bits & (~bits + 1);
}

bool has_selected_rows(const Gradient& gradient) { return gradient.data && gradient.rows; }

Index begin_of(const Rows& rows, Index row) { return rows.begins ? rows.begins[row] : row; }

}  // namespace

// Absent state arrays have no address.
template <class F>
void RowBuffers::Slice::for_arrays(F f) {
    const auto row_bytes = [this](std::size_t item) { return std::size_t(segment.rows.size) * item; };
    const auto call = [&](ArrayRef& array) {
        if (array.data) f(array.data, row_bytes(item_size(array.format)));
    };
    call(segment.p);
    for (std::size_t k = 0; k < states; ++k) {
        CompressionRef& ref = compression[k];
        if (k >= element_states) {
            f(state[k].data, item_size(state[k].format));
            continue;
        }
        if (ref.kind == Compression::kNone) {
            call(state[k]);
            continue;
        }
        f(state[k].data, row_bytes(code_size(ref.kind)));
        if (!has_blocks(ref.kind)) continue;
        void* scales = ref.scales;
        f(scales, row_bytes(sizeof(float)) / kCodeBlock);
        ref.scales = static_cast<float*>(scales);
    }
    call(segment.average);
    call(segment.copy);
    if (segment.extra.data) f(segment.extra.data, row_bytes(item_size(segment.extra.kind)));
}

void RowBuffers::gather(const StepArgs& step) {
    const bool has_rows = std::any_of(step.gradients, step.gradients + step.count, &has_selected_rows);
    if (has_rows && is_capturing(launcher_.stream()))
        throw std::logic_error("gradients for some rows cannot be captured in a CUDA graph");
    if (!has_rows && !are_used()) return;
    slices_.clear();
    uploads_.clear();
    copies_.clear();
    for (auto& sums : sums_) sums.clear();
    for (auto& items : items_) items.clear();
    reserve(step);
    for (std::size_t i = 0; i < segments_.size(); ++i)
        if (has_selected_rows(step.gradients[i])) add(step, i);
    launcher_.upload(indices_.at, std::as_bytes(std::span(uploads_)));
    launcher_.launch(common_.copy_rows[true], copies_);
    for (const int is_double : {0, 1}) launcher_.launch(common_.add_rows[is_double], sums_[is_double]);
}

void RowBuffers::scatter() { launcher_.launch(common_.copy_rows[false], copies_); }

// Buffers that are too small are replaced by twice their size, so that old ones need no more memory than the last.
void RowBuffers::reserve(const StepArgs& step) {
    std::size_t bytes = 0, indices = 0;
    for (std::size_t i = 0; i < segments_.size(); ++i) {
        const Gradient& gradient = step.gradients[i];
        if (!has_selected_rows(gradient)) continue;
        const Rows& rows = *gradient.rows;
        slice_of(step, i).for_arrays(
            [&](const void*, std::size_t row_bytes) { bytes += whole_vectors(std::size_t(rows.count) * row_bytes); });
        bytes += 2 * whole_vectors(bytes_of(rows.size(), compute_format(segments_[i].p.format)));
        indices += std::size_t(3 * rows.count + 2 + 2 * begin_of(rows, rows.count));
    }
    bytes = std::max(bytes, sizeof(Vector));  // no rows: an address of null would mean that there is no array
    for (const auto& [buffer, needed] : {std::pair{&arrays_, bytes}, std::pair{&indices_, indices * sizeof(Index)}})
        buffer->grow_to(memory_, needed);
    next_ = arrays_.at;
}

std::byte* RowBuffers::buffer_of(std::size_t bytes) { return std::exchange(next_, next_ + whole_vectors(bytes)); }

const Index* RowBuffers::upload_later(const std::vector<Index>& indices) {
    const auto* at = reinterpret_cast<const Index*>(indices_.at) + uploads_.size();
    uploads_.insert(uploads_.end(), indices.begin(), indices.end());
    return at;
}

// The random bits of rows have keys for so many elements alone.
constexpr Index kMostRounded = Index(1) << 34;

// Rows with constants of their own are in the order of these.  The norm runs over them in ascending order.
void RowBuffers::add(const StepArgs& step, std::size_t i) {
    const Gradient& given = step.gradients[i];
    const Rows& rows = *given.rows;
    if (needs_staging(segments_[i], step.constants_of(Index(i))) && segments_[i].p.size > kMostRounded)
        throw std::invalid_argument("gradient " + std::to_string(i) +
                                    ": expected no Rows for a parameter of more than 2^34 elements with state_format "
                                    "or options of 16 bits on a GPU, got Rows for " +
                                    std::to_string(segments_[i].p.size) + " elements");
    std::vector<Index> order(std::size_t(rows.count));
    std::iota(order.begin(), order.end(), 0);
    const Gradient ascending = add_gradients(i, given, order);
    const auto constants_of = [&](Index row) { return rows.constants[row]; };
    if (rows.constants) std::ranges::stable_sort(order, {}, constants_of);
    const Slice all = add_copies(step, i, order);
    if (!rows.constants) return add_slice(i, all, ascending, 0, rows.count, Uses::kAll);
    add_slice(i, all, ascending, 0, rows.count, Uses::kSums);
    Gradient ordered = add_gradients(i, given, order);
    for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
        ordered.constants = constants_of(order[begin]);
        while (end < order.size() && constants_of(order[end]) == ordered.constants) ++end;
        add_slice(i, all, ordered, Index(begin), Index(end), Uses::kUpdate);
    }
}

// Return all rows of a segment.
RowBuffers::Slice RowBuffers::slice_of(const StepArgs& step, std::size_t i) const {
    const Segment& segment = segments_[i];
    const RuleInfo& rule = rule_info(step.constants_of(Index(i)).rule);
    const Rows& rows = *step.gradients[i].rows;
    Slice slice{segment, {}, {}, {}, rule.state.size(), element_states(rule), nullptr};
    slice.segment.rows = {rows.count, rows.row_size, rows.row_size, nullptr};
    std::copy_n(segment.state, slice.states, slice.state);
    if (segment.compression) std::copy_n(segment.compression, slice.states, slice.compression);
    return slice;
}

// Return buffers for these rows of all arrays, into which they are copied later.
RowBuffers::Slice RowBuffers::add_copies(const StepArgs& step, std::size_t i, const std::vector<Index>& order) {
    const Rows& rows = *step.gradients[i].rows;
    std::vector<Index> index;
    index.reserve(order.size());
    for (const Index row : order) index.push_back(rows.index[row]);
    Slice all = slice_of(step, i);
    all.rows = upload_later(index);
    all.for_arrays([&](void*& data, std::size_t row_bytes) {
        const std::size_t unit = unit_bytes(data, row_bytes);
        std::byte* const buffer = buffer_of(std::size_t(rows.count) * row_bytes);
        copies_.push_back({static_cast<char*>(data),
                           reinterpret_cast<char*>(buffer),
                           all.rows,
                           nullptr,
                           rows.count * Index(row_bytes / unit),
                           Index(row_bytes / unit),
                           std::int32_t(unit),
                           {}});
        data = buffer;
    });
    return all;
}

// Add the rows of all buffers from begin to end to the arrays of the step.
void RowBuffers::add_slice(std::size_t i, const Slice& all, const Gradient& gradient, Index begin, Index end,
                           Uses uses) {
    Slice& slice = slices_.emplace_back(all);
    const Index row_size = slice.segment.rows.size;
    slice.for_arrays([=](void*& data, std::size_t row_bytes) {
        data = static_cast<std::byte*>(data) + std::size_t(begin) * row_bytes;
    });
    slice.segment.state = slice.state;
    if (slice.segment.compression) slice.segment.compression = slice.compression;
    slice.segment.p.size = (end - begin) * row_size;
    slice.segment.rows.count = end - begin;
    slice.gradient = gradient;
    slice.gradient.data = static_cast<const std::byte*>(gradient.data) + bytes_of(begin * row_size, gradient.format);
    items_[i].push_back({&slice.segment, &slice.gradient, std::uint32_t(i), uses, nullptr, slice.rows + begin});
}

// Return a dense gradient of the rows in this order, which is added later; the given one if it is that already.
Gradient RowBuffers::add_gradients(std::size_t i, const Gradient& given, const std::vector<Index>& order) {
    const Rows& rows = *given.rows;
    if (!rows.positions && !rows.constants) return {given.data, 1, given.constants, given.format};
    std::vector<Index> positions, begins{0};
    for (const Index row : order) {
        for (Index k = begin_of(rows, row); k < begin_of(rows, row + 1); ++k)
            positions.push_back(rows.positions ? rows.positions[k] : k);
        begins.push_back(Index(positions.size()));
    }
    const Format format = compute_format(segments_[i].p.format);
    std::byte* const buffer = buffer_of(bytes_of(rows.size(), format));
    sums_[format == Format::kFloat64].push_back({static_cast<char*>(const_cast<void*>(given.data)),
                                                 reinterpret_cast<char*>(buffer), upload_later(positions),
                                                 upload_later(begins), rows.size(), rows.row_size, 0, given.format});
    return {buffer, 1, given.constants, format};
}

}  // namespace fo::cuda
