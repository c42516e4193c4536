#include "tensor_list.h"

#include "../expect.h"
#include "axis_sums.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace fo::cuda {
namespace {

using namespace FO_TARGET;

// Add an axis inside the others.
void add_axis(Axes& axes, std::int64_t length, std::int64_t stride) {
    if (length == 1) return;
    const int outer = axes.count - 1;
    if (outer >= 0 && axes.stride[outer] == length * stride) {  // the two are one
        axes.length[outer] *= length;
        axes.stride[outer] = stride;
        return;
    }
    expect(axes.count < Axes::kMost, "C order, or at most four axes in another one");
    axes.length[axes.count] = length;
    axes.stride[axes.count++] = stride;
}

// Return where the elements in C order are, with strides in elements; no axes for an array in C order.
Axes axes_in_c_order(const RowShape& rows) {
    Axes axes{};
    if (!rows.order) return axes;
    for (std::size_t k = 0; k < rows.order->lengths.size(); ++k)
        add_axis(axes, rows.order->lengths[k], rows.order->strides[k]);
    if (axes.count == 0) axes = {1, {1}, {0}};
    return axes;
}

// Return where the number of a row is for each element in the order of memory.
Axes axes_of_factors(const RowShape& rows, std::int64_t item) {
    Axes axes{};
    if (rows.order) {
        std::vector<std::size_t> order(rows.order->lengths.size());
        std::iota(order.begin(), order.end(), std::size_t(0));
        std::ranges::stable_sort(order, std::greater<>(), [&](std::size_t k) { return rows.order->strides[k]; });
        for (const std::size_t k : order) add_axis(axes, rows.order->lengths[k], k == 0 ? item : 0);
    } else {
        add_axis(axes, rows.count, item);
        add_axis(axes, rows.size, 0);
    }
    if (axes.count == 0) axes = {1, {1}, {0}};
    return axes;
}

bool is_of_rows(const RuleInfo& rule, std::size_t k) { return k >= element_states(rule); }

// Return where a state array is for each element of its parameter; no axes if it is dense.
Axes axes_of_state(const Item& item, const RuleInfo& rule, std::size_t k) {
    const ArrayRef& array = item.segment->state[k];
    if (is_of_rows(rule, k)) return axes_of_factors(item.segment->rows, std::int64_t(item_size(array.format)));
    return array.axes ? *array.axes : Axes{};
}

bool is_broadcast(const Item& item, const RuleInfo& rule, std::size_t k) {
    return is_of_rows(rule, k) || item.segment->state[k].axes;
}

// Return which arrays are aligned to 16 bytes at element -shift.
std::uint16_t aligned16_at(int shift, const Item& item, const RuleInfo& rule) {
    const Segment& segment = *item.segment;
    const auto is_aligned16 = [shift](const ArrayRef& array) {
        return (reinterpret_cast<std::uintptr_t>(array.data) - std::uintptr_t(shift) * item_size(array.format)) % 16 ==
               0;
    };
    const ArrayRef gradient{const_cast<void*>(item.gradient->data), segment.p.size, item.gradient->format};
    unsigned aligned16 = 0;
    if (is_aligned16(segment.p)) aligned16 |= kAlignedP;
    if (is_aligned16(gradient)) aligned16 |= kAlignedG;
    if (segment.average.data && is_aligned16(segment.average)) aligned16 |= kAlignedAverage;
    for (std::size_t k = 0; k < rule.state.size(); ++k)
        if (!is_broadcast(item, rule, k) && is_aligned16(segment.state[k])) aligned16 |= unsigned(kAlignedState) << k;
    if (segment.extra.data && reinterpret_cast<std::uintptr_t>(segment.extra.data) % 16 == 0)
        aligned16 |= kAlignedExtra;
    return std::uint16_t(aligned16);
}

// Count the accesses of 16 bytes: an array that is written has two.
int aligned_benefit(unsigned aligned16) {
    int count = aligned16 & kAlignedG ? -1 : 0;
    for (; aligned16; aligned16 &= aligned16 - 1) count += 2;
    return count;
}

bool all_aligned16(unsigned aligned16, const Item& item, const RuleInfo& rule) {
    unsigned all = kAlignedP | kAlignedG | (item.segment->average.data ? kAlignedAverage : 0);
    for (std::size_t k = 0; k < rule.state.size(); ++k)
        if (!is_broadcast(item, rule, k)) all |= unsigned(kAlignedState) << k;
    return aligned16 == all;
}

TensorDesc make_tensor_desc(const Item& item, const RuleInfo& rule, bool is_staged) {
    TensorDesc tensor{};
    tensor.p = static_cast<char*>(item.segment->p.data);
    tensor.g = static_cast<const char*>(item.gradient->data);
    tensor.average = static_cast<char*>(item.segment->average.data);
    tensor.copy = static_cast<char*>(item.segment->copy.data);
    tensor.copy_format = item.segment->copy.format;
    tensor.size = item.gradient->data ? item.segment->p.size : 0;
    tensor.index = item.index;
    tensor.constants = std::uint32_t(item.gradient->constants);
    tensor.p_format = item.segment->p.format;
    tensor.g_format = item.gradient->format;
    tensor.sum_aligned16_mask = tensor.aligned16_mask = aligned16_at(0, item, rule);
    if (is_staged || all_aligned16(tensor.aligned16_mask, item, rule)) return tensor;  // blocks begin at element 0
    for (int shift = 1; shift < kItemsPerThread; ++shift)
        if (const auto aligned16 = aligned16_at(shift, item, rule);
            aligned_benefit(aligned16) > aligned_benefit(tensor.aligned16_mask)) {
            tensor.aligned16_mask = aligned16;
            tensor.chunk_offset = std::uint8_t(shift);
        }
    return tensor;
}

void append(std::vector<std::byte>& bytes, const void* data, std::size_t size) {
    const auto* begin = static_cast<const std::byte*>(data);
    bytes.insert(bytes.end(), begin, begin + size);
}

// Append where the state arrays of a rule are that may be broadcast.
void append_axes(std::vector<std::byte>& bytes, const Item& item, const RuleInfo& rule) {
    for (std::size_t k = 0; k < rule.state.size(); ++k) {
        const Axes axes = axes_of_state(item, rule, k);
        expect(axes.count == 0 || (rule.broadcasts && rule.updated[k + 2] != Access::kWrite), "dense state on a GPU");
        if (rule.broadcasts) append(bytes, &axes, sizeof axes);
    }
}

// Return the rows that an item updates.
std::int64_t row_count(const Item& item) {
    const bool is_updated = item.gradient->data && item.uses != Uses::kSums && item.segment->p.size > 0;
    return is_updated ? item.segment->rows.count : 0;
}

// Append the addresses of the state arrays, in the place of a row's numbers those of the factors of its elements.
void append_state(std::vector<std::byte>& bytes, const Item& item, const RuleInfo& rule) {
    for (std::size_t k = 0; k < rule.state.size(); ++k) {
        const void* const data = is_of_rows(rule, k) ? item.factors : item.segment->state[k].data;
        append(bytes, &data, sizeof data);
    }
    append(bytes, item.segment->scalar_state, rule.scalar_state.size() * sizeof(void*));
    append_axes(bytes, item, rule);
    if (!rule.has_row_state) return;
    auto* const numbers = static_cast<char*>(item.segment->state[element_states(rule)].data);
    const RowShape& rows = item.segment->rows;
    const RowDesc desc{numbers, row_count(item), rows.size, axes_in_c_order(rows)};
    append(bytes, &desc, sizeof desc);
}

void append_staged(std::vector<std::byte>& bytes, const Item& item, std::size_t arrays) {
    const Segment& segment = *item.segment;
    StagedDesc staged{};
    staged.extra = static_cast<char*>(segment.extra.data);
    staged.extra_kind = segment.extra.kind;
    staged.rows = item.rows;
    staged.row_size = segment.rows.size;
    staged.random_param = segment.random_param;
    const CompressionRef none[kMaxState]{};
    const CompressionRef* const refs = segment.compression ? segment.compression : none;
    for (std::size_t k = 0; k < arrays; ++k) staged.compression[k] = refs[k].kind;
    append(bytes, &staged, sizeof staged);
    for (std::size_t k = 0; k < arrays; ++k) append(bytes, &refs[k].scales, sizeof(void*));
}

std::uint32_t pieces(std::int64_t size, std::int64_t each) { return std::uint32_t((size + each - 1) / each); }

}  // namespace

std::size_t desc_bytes(const RuleInfo& rule, bool is_staged) {
    const std::size_t arrays = rule.state.size();
    return sizeof(TensorDesc) + (arrays + rule.scalar_state.size()) * sizeof(void*) +
           (rule.broadcasts ? arrays * sizeof(Axes) : 0) + (rule.has_row_state ? sizeof(RowDesc) : 0) +
           (is_staged ? sizeof(StagedDesc) + arrays * sizeof(void*) : 0);
}

TensorList make_tensor_list(std::span<const Item> items, const RuleInfo& rule, bool is_staged,
                            std::uint32_t first_sum) {
    std::vector<std::uint32_t> updates{0}, sums{first_sum};
    std::vector<std::byte> tensors;
    std::int64_t row_units = 0;
    updates.reserve(items.size() + 1);
    sums.reserve(items.size() + 1);
    tensors.reserve(items.size() * desc_bytes(rule, is_staged));
    for (const Item& item : items) {
        const TensorDesc tensor = make_tensor_desc(item, rule, is_staged);
        append(tensors, &tensor, sizeof tensor);
        append_state(tensors, item, rule);
        row_units += rule.has_row_state ? (row_count(item) + kAxisRows - 1) / kAxisRows : 0;
        if (is_staged) append_staged(tensors, item, rule.state.size());
        const bool is_updated = tensor.size > 0 && item.uses != Uses::kSums;
        updates.push_back(updates.back() + (is_updated ? pieces(tensor.size + tensor.chunk_offset, kChunk) : 0));
        sums.push_back(sums.back() + (item.uses == Uses::kUpdate ? 0 : pieces(tensor.size, kSumChunk)));
    }
    TensorList list{std::uint32_t(items.size()), updates.back(), sums.back() - first_sum, row_units, {}};
    append(list.table, updates.data(), updates.size() * sizeof updates[0]);
    append(list.table, sums.data(), sums.size() * sizeof sums[0]);
    append(list.table, tensors.data(), tensors.size());
    return list;
}

}  // namespace fo::cuda
