#include "step_tables.h"

#include "../float_environment.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace fo::cuda {
namespace {

using namespace FO_TARGET;

template <class T>
std::vector<std::byte> encode_constants(std::span<const StepConstants> constants) {
    std::vector<std::byte> bytes(constants.size() * sizeof(KernelConstants<T>));
    for (std::size_t i = 0; i < constants.size(); ++i) {
        const StepConstants& each = constants[i];
        const Gradient unclipped{nullptr, 1, 0, kComputeFormat<T>};
        KernelConstants<T> encoded{each.clip_norm,
                                   each.clip_global_norm,
                                   each.clip_eps,
                                   each.norm_type,
                                   each.rounds_randomly,
                                   each.seed,
                                   each.t,
                                   {},
                                   Prepare<T>(each, unclipped),
                                   Finish<T>(each, unclipped)};
        std::memcpy(encoded.rule, sizeof(T) == 8 ? each.rule_f64 : each.rule_f32, kRuleBytes);
        std::memcpy(bytes.data() + i * sizeof encoded, &encoded, sizeof encoded);
    }
    return bytes;
}

}  // namespace

// ---- tables

void StepTables::prepare(const StepArgs& step, bool capturing) {
    const bool was_capturing = std::exchange(capturing_, capturing);
    if (was_capturing == capturing && !rows_.are_used() && is_same(step)) return;
    gradients_.clear();  // if something fails on the way, the next step makes the tables again
    make_groups(step);
    if (!rows_.are_used()) gradients_.assign(step.gradients, step.gradients + step.count);
}

bool StepTables::is_same(const StepArgs& step) const {
    const auto same_gradient = [](const Gradient& a, const Gradient& b) {
        return a.data == b.data && a.format == b.format && a.constants == b.constants;
    };
    const auto same_kind = [](const StepConstants& a, const UpdateKind& b) { return UpdateKind(a) == b; };
    return std::equal(step.gradients, step.gradients + step.count, gradients_.begin(), gradients_.end(),
                      same_gradient) &&
           std::equal(step.constants, step.constants + step.constants_count, kinds_.begin(), kinds_.end(), same_kind);
}

void StepTables::make_groups(const StepArgs& step) {
    groups_.clear();
    gradients_in_tables_.assign(step.gradients, step.gradients + step.count);
    kinds_.assign(step.constants, step.constants + step.constants_count);
    for (std::size_t i = 0; i < segments_.size(); ++i) {
        const Gradient& gradient = gradients_in_tables_[i];
        if (!takes_part(step, std::int64_t(i))) continue;
        const StepConstants& constants = step.constants[gradient.constants];
        const KernelKind kind{constants.rule, segments_[i].p.format == Format::kFloat64,
                              needs_staging(segments_[i], constants)};
        auto group =
            std::ranges::find(groups_, kind, [](const KernelGroup& each) -> const KernelKind& { return each; });
        if (group == groups_.end()) group = groups_.insert(groups_.end(), KernelGroup{kind, {}, {}});
        const std::vector<Item>& items = rows_.items(i);
        const std::size_t before = group->items.size();
        group->items.insert(group->items.end(), items.begin(), items.end());
        if (items.empty()) group->items.push_back({&segments_[i], &gradient, std::uint32_t(i)});
        if (const RuleInfo& info = rule_info(kind.rule); info.has_row_state)
            set_factors(i, info, std::span(group->items).subspan(before));
    }
    sum_chunks_ = 0;
    for (KernelGroup& group : groups_) make_table(group, kinds_.size());
}

// Give the items of a segment memory for the factors of their rows.
void StepTables::set_factors(std::size_t i, const RuleInfo& rule, std::span<Item> items) {
    const std::size_t item_bytes = item_size(segments_[i].state[element_states(rule)].format);
    std::size_t rows = 0;
    for (const Item& item : items) rows += std::size_t(item.segment->rows.count);
    factors_.resize(segments_.size());
    auto* next = reinterpret_cast<char*>(factors_[i].grow_to(memory_, rows * item_bytes));
    for (Item& item : items)
        item.factors = std::exchange(next, next + std::size_t(item.segment->rows.count) * item_bytes);
}

// In device memory the table of an ordinary step is overwritten by the next one that differs, in the stream's order.
// That of a graph has memory of its own, which nothing overwrites.
void StepTables::make_table(KernelGroup& group, std::size_t constants_count) {
    group.list = make_tensor_list(group.items, rule_info(group.rule), group.is_staged, sum_chunks_);
    sum_chunks_ += group.list.sum_chunks;
    const std::vector<std::byte>& table = group.list.table;
    const std::size_t constants = ConstantsBuffer::bytes_in_arguments(constants_count, group.is_double, capturing_);
    if (constants + table.size() <= kTableBytes) return;
    std::byte* at;
    if (capturing_) {
        at = memory_.get<std::byte>(table.size());
        write_aside(at, table.data(), table.size());
    } else {
        at = tables_[group].grow_to(memory_, table.size());
        launcher_.upload(at, table);
    }
    group.on_device = at;
}

// ---- constants

std::size_t ConstantsBuffer::bytes_in_arguments(std::size_t count, bool is_double, bool capturing) {
    const std::size_t bytes = count * (is_double ? sizeof(KernelConstants<double>) : sizeof(KernelConstants<float>));
    return capturing || bytes > kTableBytes / 2 ? 0 : bytes;
}

void ConstantsBuffer::prepare(const StepArgs& step, const std::vector<KernelGroup>& groups, bool capturing,
                              bool has_norms) {
    const DefaultFloatEnvironment environment;
    const std::span<const StepConstants> constants(step.constants, std::size_t(step.constants_count));
    capturing_ = capturing;
    count_ = constants.size();
    bytes_[0] = encode_constants<float>(constants);
    bytes_[1] = encode_constants<double>(constants);
    Captured* captured = nullptr;
    if (capturing) {
        captured = &captured_.emplace_back(Captured{{}, has_norms, {}});
        captured->updates.assign(constants.begin(), constants.end());
    }
    for (const int is_double : {0, 1}) {
        const std::vector<std::byte>& bytes = bytes_[is_double];
        if (std::none_of(groups.begin(), groups.end(), [=](auto& group) { return group.is_double == is_double; }))
            continue;
        if (captured) {
            captured->on_device[is_double] = memory_.get<std::byte>(bytes.size());
            write_aside(captured->on_device[is_double], bytes.data(), bytes.size());
        } else if (bytes_in_arguments(count_, is_double, false) == 0) {
            launcher_.upload(on_device_[is_double].grow_to(memory_, bytes.size()), bytes);
        }
    }
}

LaunchConstants ConstantsBuffer::of(const KernelGroup& group) const {
    if (capturing_) return {{}, captured_.back().on_device[group.is_double]};
    if (bytes_in_arguments(count_, group.is_double, false) == 0) return {{}, on_device_[group.is_double].at};
    return {bytes_[group.is_double], nullptr};
}

bool ConstantsBuffer::Captured::fits(const std::vector<StepConstants>& constants) const {
    return std::equal(constants.begin(), constants.end(), updates.begin(), updates.end(),
                      [this](const StepConstants& each, const auto& update) {
                          return UpdateKind(each) == update && !each.skip_nonfinite &&
                                 (has_norms || !each.bounds_norms());
                      });
}

void ConstantsBuffer::advance(const std::vector<StepConstants>& constants) {
    if (captured_.empty()) throw std::runtime_error("no step of these arrays was captured in a CUDA graph");
    if (is_capturing(launcher_.stream()))  // every replay would restore the constants of this step
        throw std::runtime_error("graph_step: expected to be called before a replay, not while a graph is captured");
    if (!captured_.back().fits(constants))
        throw std::runtime_error(
            "the options are no longer those of the step that was captured in a CUDA graph: capture it again");
    const DefaultFloatEnvironment environment;
    const std::vector<std::byte> bytes[] = {encode_constants<float>(constants), encode_constants<double>(constants)};
    for (const Captured& captured : captured_)  // earlier graphs, too, of steps like the last one
        for (const int is_double : {0, 1})
            if (captured.on_device[is_double] && captured.fits(constants))
                launcher_.upload(captured.on_device[is_double], bytes[is_double]);
}

}  // namespace fo::cuda
