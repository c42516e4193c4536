// The table of one launch, as the host lays it out for TensorTable.
#pragma once

#include "tensor_table.h"
#include "update.h"

#include "../rule_info.h"

#include <span>
#include <vector>

namespace fo::cuda {

// The passes that an item is for.
enum class Uses : std::uint8_t { kAll, kSums, kUpdate };

// One array, or some of its rows, as it is in this step.
struct Item {
    const Segment* segment;
    const Gradient* gradient;
    std::uint32_t index;
    Uses uses = Uses::kAll;
    char* factors = nullptr;             // of the rows, for rules with a number for each row
    const std::int64_t* rows = nullptr;  // in device memory: those of the parameter that the arrays are buffers of
};

struct TensorList {
    std::uint32_t tensors, update_chunks, sum_chunks;
    std::int64_t row_units;
    std::vector<std::byte> table;
};

// `is_staged`: of arrays for the kernels of staged.h.
std::size_t desc_bytes(const RuleInfo& rule, bool is_staged);

// The partial sums of the list begin at `first_sum`.
TensorList make_tensor_list(std::span<const Item> items, const RuleInfo& rule, bool is_staged, std::uint32_t first_sum);

}  // namespace fo::cuda
