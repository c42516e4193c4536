// The jobs of one launch, as the host lays them out for job.h's Table.
#pragma once

#include "job.h"
#include "update.h"

#include "../table.h"

#include <span>
#include <vector>

namespace fo::cuda {

// One array as it is in this step.
struct Item {
    const Segment* segment;
    const Gradient* gradient;
    std::uint32_t index;
};

struct JobList {
    std::uint32_t jobs, update_chunks, sum_chunks;
    std::vector<std::byte> table;
};

std::size_t job_bytes(const RuleInfo& rule);

// How many jobs of that rule fit into so many bytes.
std::size_t jobs_within(std::size_t bytes, const RuleInfo& rule);

// The partial sums of the list begin at `first_sum`.
JobList make_jobs(std::span<const Item> items, const RuleInfo& rule, std::uint32_t first_sum);

}  // namespace fo::cuda
