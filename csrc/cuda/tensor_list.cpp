#include "tensor_list.h"

#include "../expect.h"
#include "reduce.h"

namespace fo::cuda {
namespace {

using namespace FO_TARGET;

// Return which arrays are aligned to 16 bytes at element -shift.
std::uint16_t aligned16_at(int shift, const Item& item, const RuleInfo& rule) {
    const Segment& segment = *item.segment;
    const auto is_aligned16 = [shift](const ArrayRef& array) {
        const std::uintptr_t before = std::uintptr_t(shift) * item_size(array.format);
        return !array.axes && (reinterpret_cast<std::uintptr_t>(array.data) - before) % 16 == 0;
    };
    const ArrayRef gradient{const_cast<void*>(item.gradient->data), segment.p.size, item.gradient->format};
    unsigned aligned16 = 0;
    if (is_aligned16(segment.p)) aligned16 |= kAlignedP;
    if (is_aligned16(gradient)) aligned16 |= kAlignedG;
    if (segment.average.data && is_aligned16(segment.average)) aligned16 |= kAlignedAverage;
    for (std::size_t k = 0; k < rule.state.size(); ++k)
        if (is_aligned16(segment.state[k])) aligned16 |= unsigned(kAlignedState) << k;
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
        if (!item.segment->state[k].axes) all |= unsigned(kAlignedState) << k;
    return aligned16 == all;
}

TensorDesc make_tensor_desc(const Item& item, const RuleInfo& rule) {
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
    if (all_aligned16(tensor.aligned16_mask, item, rule)) return tensor;
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
        const Axes* const axes = item.segment->state[k].axes;
        expect(!axes || (rule.broadcasts && rule.updated[k + 2] != Access::kWrite), "dense state on a GPU");
        const Axes dense{};
        if (rule.broadcasts) append(bytes, axes ? axes : &dense, sizeof dense);
    }
}

std::uint32_t pieces(std::int64_t size, std::int64_t each) { return std::uint32_t((size + each - 1) / each); }

}  // namespace

std::size_t desc_bytes(const RuleInfo& rule) {
    const std::size_t arrays = rule.state.size();
    return sizeof(TensorDesc) + (arrays + rule.scalar_state.size()) * sizeof(void*) +
           (rule.broadcasts ? arrays * sizeof(Axes) : 0);
}

TensorList make_tensor_list(std::span<const Item> items, const RuleInfo& rule, std::uint32_t first_sum) {
    std::vector<std::uint32_t> updates{0}, sums{first_sum};
    std::vector<std::byte> tensors;
    updates.reserve(items.size() + 1);
    sums.reserve(items.size() + 1);
    tensors.reserve(items.size() * desc_bytes(rule));
    for (const Item& item : items) {
        const TensorDesc tensor = make_tensor_desc(item, rule);
        append(tensors, &tensor, sizeof tensor);
        for (std::size_t k = 0; k < rule.state.size(); ++k)
            append(tensors, &item.segment->state[k].data, sizeof(void*));
        append(tensors, item.segment->scalar_state, rule.scalar_state.size() * sizeof(void*));
        append_axes(tensors, item, rule);
        const bool is_updated = tensor.size > 0 && item.uses != Uses::kSums;
        updates.push_back(updates.back() + (is_updated ? pieces(tensor.size + tensor.chunk_offset, kChunk) : 0));
        sums.push_back(sums.back() + (item.uses == Uses::kUpdate ? 0 : pieces(tensor.size, kSumChunk)));
    }
    TensorList list{std::uint32_t(items.size()), updates.back(), sums.back() - first_sum, {}};
    append(list.table, updates.data(), updates.size() * sizeof updates[0]);
    append(list.table, sums.data(), sums.size() * sizeof sums[0]);
    append(list.table, tensors.data(), tensors.size());
    return list;
}

}  // namespace fo::cuda
