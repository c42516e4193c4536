#include "job_list.h"

#include "sums.h"

namespace fo::cuda {
namespace {

using namespace FO_TARGET;

// Which arrays are aligned to 16 bytes at element -shift.
std::uint16_t wide_at(int shift, const Item& item, const RuleInfo& rule) {
    const Segment& segment = *item.segment;
    const Format own = segment.format == Format::kFloat64 ? Format::kFloat64 : Format::kFloat32;
    const auto is_wide = [shift](const void* array, Format format) {
        return (reinterpret_cast<std::uintptr_t>(array) - std::uintptr_t(shift) * item_size(format)) % 16 == 0;
    };
    unsigned wide = 0;
    if (is_wide(segment.p, segment.format)) wide |= kWideP;
    if (is_wide(item.gradient->data, item.gradient->format)) wide |= kWideG;
    if (segment.average && is_wide(segment.average, own)) wide |= kWideAverage;
    for (std::size_t k = 0; k < rule.state.size(); ++k)
        if (is_wide(segment.state[k], own)) wide |= unsigned(kWideState) << k;
    return std::uint16_t(wide);
}

// What is written counts twice.
int worth(unsigned wide) {
    int count = wide & kWideG ? -1 : 0;
    for (; wide; wide &= wide - 1) count += 2;
    return count;
}

bool all_wide(unsigned wide, const Item& item, const RuleInfo& rule) {
    const unsigned average = item.segment->average ? kWideAverage : 0;
    return wide == (kWideP | kWideG | average | ((1u << rule.state.size()) - 1) * kWideState);
}

Job make_job(const Item& item, const RuleInfo& rule) {
    Job job{};
    job.p = static_cast<char*>(item.segment->p);
    job.g = static_cast<const char*>(item.gradient->data);
    job.average = static_cast<char*>(item.segment->average);
    job.size = item.segment->size;
    job.index = item.index;
    job.numbers = std::uint32_t(item.gradient->scalars);
    job.p_format = item.segment->format;
    job.g_format = item.gradient->format;
    job.sum_wide = job.wide = wide_at(0, item, rule);
    if (all_wide(job.wide, item, rule)) return job;
    for (int shift = 1; shift < kEach; ++shift)
        if (const auto wide = wide_at(shift, item, rule); worth(wide) > worth(job.wide)) {
            job.wide = wide;
            job.shift = std::uint8_t(shift);
        }
    return job;
}

std::uint32_t pieces(std::int64_t size, std::int64_t each) { return std::uint32_t((size + each - 1) / each); }

void append(std::vector<std::byte>& bytes, const void* data, std::size_t size) {
    const auto* begin = static_cast<const std::byte*>(data);
    bytes.insert(bytes.end(), begin, begin + size);
}

}  // namespace

std::size_t job_bytes(const RuleInfo& rule) {
    return sizeof(Job) + (rule.state.size() + rule.scalars.size()) * sizeof(void*);
}

std::size_t jobs_within(std::size_t bytes, const RuleInfo& rule) {
    const std::size_t begin = 2 * sizeof(std::uint32_t);
    return bytes < begin ? 0 : (bytes - begin) / (job_bytes(rule) + begin);
}

JobList make_jobs(std::span<const Item> items, const RuleInfo& rule, std::uint32_t first_sum) {
    std::vector<std::uint32_t> updates{0}, sums{first_sum};
    std::vector<std::byte> jobs;
    for (const Item& item : items) {
        const Job job = make_job(item, rule);
        append(jobs, &job, sizeof job);
        append(jobs, item.segment->state, rule.state.size() * sizeof(void*));
        append(jobs, item.segment->scalars, rule.scalars.size() * sizeof(void*));
        updates.push_back(updates.back() + (job.size > 0 ? pieces(job.size + job.shift, kChunk) : 0));
        sums.push_back(sums.back() + pieces(job.size, kSumChunk));
    }
    JobList list{std::uint32_t(items.size()), updates.back(), sums.back() - first_sum, {}};
    append(list.table, updates.data(), updates.size() * sizeof updates[0]);
    append(list.table, sums.data(), sums.size() * sizeof sums[0]);
    append(list.table, jobs.data(), jobs.size());
    return list;
}

}  // namespace fo::cuda
