// A step on a device: which kernels, in which order, over which arrays.  Plain C++, for CUDA and for its emulation.
#include "../float_environment.h"
#include "bandwidth_probe.h"
#include "cuda.h"
#include "device.h"
#include "kernels.h"
#include "reduce.h"
#include "tensor_list.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace fo::cuda {
namespace {

using namespace FO_TARGET;

// Memory of the current device, which stays where it is as long as its owner lives: captured graphs may use it.
class Memory {
  public:
    Memory() = default;
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory() {
        for (void* each : all_) release(each);
    }

    template <class T>
    T* get(std::size_t count) {
        all_.reserve(all_.size() + 1);
        all_.push_back(allocate((count * sizeof(T) / 16 + 1) * 16));
        return static_cast<T*>(all_.back());
    }

  private:
    std::vector<void*> all_;
};

// A place in it that may have to move when it grows.
struct GrowBuffer {
    std::byte* at = nullptr;
    std::size_t size = 0;

    std::byte* grow_to(Memory& memory, std::size_t bytes) {
        if (size < bytes) {
            at = memory.get<std::byte>(bytes);
            size = bytes;
        }
        return at;
    }
};

std::string described(const Kernel& kernel) {
    std::string text = std::string("CUDA: the kernel '") + kernel.what + "'";
    if (*kernel.rule) text += std::string(" of ") + kernel.rule;
    if (*kernel.type) text += std::string(" (") + kernel.type + ")";
    return text;
}

bool bounds_norms(const StepConstants& constants) {
    return constants.clip_norm < INFINITY || constants.clip_global_norm < INFINITY;
}

const RuleInfo& info_of(int rule) { return rules()[std::size_t(rule)]; }

std::uint32_t blocks_for(std::uint32_t items, std::uint32_t each) { return (items + each - 1) / each; }

template <class T>
std::vector<std::byte> numbers_of(const std::vector<StepConstants>& constants) {
    std::vector<std::byte> bytes(constants.size() * sizeof(Numbers<T>));
    for (std::size_t i = 0; i < constants.size(); ++i) {
        const StepConstants& each = constants[i];
        const Gradient unclipped{nullptr, 1, 0, kOwnFormat<T>};
        Numbers<T> numbers{each.clip_norm, each.clip_global_norm, {}, Prepare<T>(each, unclipped)};
        std::memcpy(numbers.rule, sizeof(T) == 8 ? each.rule_f64 : each.rule_f32, kRuleBytes);
        std::memcpy(bytes.data() + i * sizeof numbers, &numbers, sizeof numbers);
    }
    return bytes;
}

// An array's bit in Aligned16: p, g, then the state.
unsigned bit_of(std::size_t i) {
    if (i < 2) return i == 0 ? kAlignedP : kAlignedG;
    return unsigned(kAlignedState) << (i - 2);
}

// Which arrays a pass does that with, by these bits.
unsigned arrays_with(Access wanted, std::span<const Access> all) {
    unsigned which = 0;
    for (std::size_t i = 0; i < all.size(); ++i)
        if (all[i] == wanted) which |= bit_of(i);
    return which;
}

// What one launch is told of its arrays; in the arguments unless it is on the device.
struct Launch {
    TensorList list;
    const std::byte* on_device = nullptr;
};

// The arrays of one rule in one compute type.
struct KernelGroup {
    int rule;
    bool is_double;
    std::vector<Item> items;
    std::vector<Launch> launches;
};

// What a graph keeps of a captured step.
struct Captured {
    std::vector<std::int32_t> rules;
    bool has_norms;
};

class DevicePlan final : public Plan {
  public:
    DevicePlan(std::vector<Segment> segments, int device)
        : segments_(std::move(segments)), device_(device), common_(common_kernels()) {}

    ~DevicePlan() override {
        try {
            const OnDevice here(device_);
            memory_.reset();
        } catch (const std::exception&) {  // the process ends, and the driver has gone before
        }
    }

    bool step(const std::vector<Gradient>& gradients, const std::vector<StepConstants>& constants, void* stream,
              std::optional<double> norm) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        const bool reduced = prepare(gradients, constants, stream) && measured_ && norm;
        measured_ = false;
        if (capturing_ && (skips() || norm))
            throw std::runtime_error(
                "skip_nonfinite, and norms over several devices, cannot be captured in a CUDA graph: "
                "the host has to know them before it goes on");
        if (has_norms()) {
            if (!reduced) sum_gradients();
            if (!reduced && skips() && some_is_nonfinite()) return false;
            clip(norm);
        }
        finalize();
        for (const KernelGroup& set : kernel_groups_)
            for (const Launch& part : set.launches)
                launch(kernels(set).update, set, part, part.list.update_chunks, at_update(set));
        return true;
    }

    std::optional<std::vector<double>> gradient_norms(const std::vector<Gradient>& gradients,
                                                      const std::vector<StepConstants>& constants,
                                                      void* stream) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        prepare(gradients, constants, stream);
        sum_gradients_to_read();
        if (skips() && some_is_nonfinite()) return std::nullopt;
        measured_ = true;
        return read_doubles(work_.clipped_sq_norms, segments_.size());
    }

    std::vector<double> squared_norms(const std::vector<Gradient>& gradients,
                                      const std::vector<StepConstants>& constants, void* stream) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        prepare(gradients, constants, stream);
        sum_gradients_to_read();
        const auto sums = read_doubles(work_.sums, segments_.size() * kMaxSums);
        std::vector<double> squares;
        for (std::size_t i = 0; i < segments_.size(); ++i)
            squares.push_back(gradients[i].data ? sums[i * kMaxSums] : 0);
        return squares;
    }

    void run_probe(const std::vector<Gradient>& gradients, const std::vector<StepConstants>& constants,
                   std::uint64_t mask, void* stream) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        if (!prepare(gradients, constants, stream)) reserve_answers();
        std::uint64_t* answers = answers_;
        for (const bool updates : {false, true})
            for (const KernelGroup& set : kernel_groups_)
                for (const Launch& part : set.launches) answers += launch_probe(set, part, updates, mask, answers);
    }

    std::uint64_t probe_answer(void* stream) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        std::vector<std::uint64_t> each(answers_count_);
        if (!each.empty()) read({device_, stream}, each.data(), answers_, each.size() * sizeof each[0]);
        return std::accumulate(each.begin(), each.end(), std::uint64_t{0}, std::bit_xor<>());
    }

    void advance(const std::vector<StepConstants>& constants, void* stream) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        stream_ = {device_, stream};
        if (!captured_) throw std::runtime_error("no step of these arrays was captured in a CUDA graph");
        if (is_capturing(stream_))  // every replay would put this step's numbers back
            throw std::runtime_error(
                "graph_step: expected to be called before a replay, not while a graph is captured");
        bool fits = constants.size() == captured_->rules.size();
        for (std::size_t i = 0; fits && i < constants.size(); ++i)
            fits = constants[i].rule == captured_->rules[i] && !constants[i].skip_nonfinite &&
                   (captured_->has_norms || !bounds_norms(constants[i]));
        if (!fits)
            throw std::runtime_error(
                "the options are no longer those of the step that was captured in a CUDA graph: "
                "capture it again");
        const DefaultFloatEnvironment environment;
        put(captured_numbers_[0].at, numbers_of<float>(constants));
        put(captured_numbers_[1].at, numbers_of<double>(constants));
    }

  private:
    bool skips() const {
        return std::any_of(constants_.begin(), constants_.end(), [](auto& each) { return each.skip_nonfinite; });
    }
    bool has_norms() const { return skips() || std::any_of(constants_.begin(), constants_.end(), bounds_norms); }

    const RuleKernels& kernels(const KernelGroup& set) {
        RuleKernels& known = kernels_[{set.rule, set.is_double}];
        if (!known.update.launch) known = kernels_of(set.rule, set.is_double);
        return known;
    }

    // ---- what the kernels are told

    // Whether it is as in the step before but for the numbers.
    bool prepare(const std::vector<Gradient>& gradients, const std::vector<StepConstants>& constants, void* stream) {
        stream_ = {device_, stream};
        const bool was_capturing = std::exchange(capturing_, is_capturing(stream_));
        const bool same = was_capturing == capturing_ && is_same(gradients, constants);
        constants_ = constants;
        if (!same) {
            gradients_.clear();  // should something fail on the way, the next step begins anew
            make_kernel_groups(gradients);
            gradients_ = gradients;
        }
        make_numbers();
        return same;
    }

    bool is_same(const std::vector<Gradient>& gradients, const std::vector<StepConstants>& constants) const {
        const auto same_gradient = [](const Gradient& a, const Gradient& b) {
            return a.data == b.data && a.format == b.format && a.constants == b.constants;
        };
        const auto same_rule = [](const StepConstants& a, const StepConstants& b) { return a.rule == b.rule; };
        return std::equal(gradients.begin(), gradients.end(), gradients_.begin(), gradients_.end(), same_gradient) &&
               std::equal(constants.begin(), constants.end(), constants_.begin(), constants_.end(), same_rule);
    }

    void make_kernel_groups(const std::vector<Gradient>& gradients) {
        kernel_groups_.clear();
        items_of_step_ = gradients;
        for (std::size_t i = 0; i < segments_.size(); ++i) {
            const Gradient& gradient = items_of_step_[i];
            if (!gradient.data) continue;
            const int rule = constants_[std::size_t(gradient.constants)].rule;
            const bool is_double = segments_[i].format == Format::kFloat64;
            auto set = std::find_if(kernel_groups_.begin(), kernel_groups_.end(), [=](const KernelGroup& each) {
                return each.rule == rule && each.is_double == is_double;
            });
            if (set == kernel_groups_.end())
                set = kernel_groups_.insert(kernel_groups_.end(), KernelGroup{rule, is_double, {}, {}});
            set->items.push_back({&segments_[i], &gradient, std::uint32_t(i)});
        }
        sum_chunks_ = 0;
        for (KernelGroup& set : kernel_groups_) make_launches(set);
        make_groups();
    }

    // One part where the table fits into the arguments, else one whose table waits in device memory.  The arguments of
    // a graph are its own, which that memory is not: while one is captured there are as many parts as it takes.
    void make_launches(KernelGroup& set) {
        const RuleInfo& rule = info_of(set.rule);
        const std::size_t room = descs_within(kTableBytes - numbers_in_arguments(set), rule);
        const bool fits = set.items.size() <= room;
        const std::size_t each = fits || !capturing_ ? set.items.size() : room;
        const std::span<const Item> items(set.items);
        for (std::size_t first = 0; first < items.size(); first += each) {
            const auto some = items.subspan(first, std::min(each, items.size() - first));
            Launch part{make_tensor_list(some, rule, sum_chunks_)};
            sum_chunks_ += part.list.sum_chunks;
            if (!fits && !capturing_) part.on_device = put_table({set.rule, set.is_double}, part.list.table);
            set.launches.push_back(std::move(part));
        }
    }

    // The arrays whose rule wants sums over their group, by group and in order.
    void make_groups() {
        std::map<std::int32_t, std::vector<std::uint32_t>> groups;
        for (const KernelGroup& set : kernel_groups_)
            if (info_of(set.rule).reduces_group)
                for (const Item& item : set.items) groups[item.segment->group].push_back(item.index);
        std::vector<std::uint32_t> table{0}, members;
        for (auto& [group, arrays] : groups) {
            std::sort(arrays.begin(), arrays.end());
            members.insert(members.end(), arrays.begin(), arrays.end());
            table.push_back(std::uint32_t(members.size()));
        }
        table.insert(table.end(), members.begin(), members.end());
        const auto* bytes = reinterpret_cast<const std::byte*>(table.data());
        groups_ = {{std::uint32_t(groups.size()), 0, 0, {bytes, bytes + table.size() * sizeof table[0]}}};
        if (groups_.list.table.size() > kTableBytes) {
            if (capturing_) throw std::runtime_error("too many arrays with sums over their group for a CUDA graph");
            groups_.on_device = put_table({-1, false}, groups_.list.table);
        }
    }

    // ---- numbers

    // In the arguments if there are few, else in device memory; there always where a graph's replay is to find others.
    std::size_t numbers_in_arguments(const KernelGroup& set) const {
        const std::size_t bytes =
            constants_.size() * (set.is_double ? sizeof(Numbers<double>) : sizeof(Numbers<float>));
        return capturing_ || bytes > kTableBytes / 2 ? 0 : bytes;
    }

    void make_numbers() {
        const DefaultFloatEnvironment environment;
        numbers_[0] = numbers_of<float>(constants_);
        numbers_[1] = numbers_of<double>(constants_);
        if (capturing_) note_capture();
        for (const KernelGroup& set : kernel_groups_) {
            const auto& numbers = numbers_[set.is_double];
            if (!capturing_ && numbers_in_arguments(set) == 0)
                put(many_numbers_[set.is_double].grow_to(*memory_, numbers.size()), numbers);
        }
    }

    const std::byte* numbers_on_device(const KernelGroup& set) const {
        if (capturing_) return captured_numbers_[set.is_double].at;
        return numbers_in_arguments(set) == 0 ? many_numbers_[set.is_double].at : nullptr;
    }

    // Graphs read their numbers where the first of them did, so that is not to move.
    void note_capture() {
        for (const int is_double : {0, 1}) {
            const std::size_t bytes = numbers_[is_double].size();
            if (captured_ && captured_numbers_[is_double].size < bytes)
                throw std::runtime_error("a step with fewer different updates was captured in a CUDA graph before");
            captured_numbers_[is_double].grow_to(*memory_, std::max(bytes, 64 * sizeof(Numbers<double>)));
        }
        captured_.emplace(Captured{{}, has_norms()});
        for (const StepConstants& each : constants_) captured_->rules.push_back(each.rule);
    }

    // ---- launches

    void put(std::byte* to, const std::vector<std::byte>& bytes) {
        for (std::size_t done = 0; done < bytes.size(); done += kTableBytes) {
            const std::size_t some = std::min(kTableBytes, bytes.size() - done);
            arguments_.table = to + done;
            arguments_.tensors = std::uint32_t((some + sizeof(Vector) - 1) / sizeof(Vector));
            std::memcpy(arguments_.bytes, bytes.data() + done, some);
            run(common_.put, blocks_for(arguments_.tensors, 256));
        }
    }

    const std::byte* put_table(std::pair<int, bool> which, const std::vector<std::byte>& table) {
        std::byte* const at = tables_[which].grow_to(*memory_, table.size());
        put(at, table);
        return at;
    }

    void launch(const Kernel& kernel, const KernelGroup& set, const Launch& part, std::uint32_t blocks,
                const Workspace& work, int sums = 0) {
        const std::size_t numbers = numbers_in_arguments(set);
        arguments_.numbers = numbers_on_device(set);
        std::memcpy(arguments_.bytes, numbers_[set.is_double].data(), numbers);
        arguments_.desc_bytes = std::uint32_t(desc_bytes(info_of(set.rule)));
        arguments_.sums = std::uint32_t(sums);
        launch(kernel, part, blocks, work, numbers);
    }

    void launch(const Kernel& kernel, const Launch& part, std::uint32_t blocks, const Workspace& work,
                std::size_t table_at = 0) {
        const auto& table = part.list.table;
        arguments_.table = part.on_device;
        arguments_.table_at = std::uint32_t(table_at);
        if (!part.on_device) std::memcpy(arguments_.bytes + table_at, table.data(), table.size());
        arguments_.tensors = part.list.tensors;
        arguments_.workspace = work;
        run(kernel, blocks);
    }

    void run(const Kernel& kernel, std::uint32_t blocks) {
        if (blocks > 0) check(kernel.launch(stream_, arguments_, blocks), described(kernel));
    }

    // ---- passes

    void reserve_sums() {
        const std::size_t partials = std::size_t(sum_chunks_) * kMaxSums * sizeof(double);
        work_.partials = reinterpret_cast<double*>(partials_.grow_to(*memory_, partials));
        if (!work_.sums) work_.sums = memory_->get<double>(segments_.size() * kMaxSums);
    }

    void reserve_norms() {
        reserve_sums();
        if (work_.clips) return;
        work_.clipped_sq_norms = memory_->get<double>(segments_.size());
        work_.bounds = memory_->get<double>(segments_.size());
        work_.norm = memory_->get<double>(1);
        work_.found_nonfinite = memory_->get<std::int32_t>(1);
        work_.clips = memory_->get<double>(segments_.size());
    }

    // Every pass sees what it needs and nothing that an earlier step left.
    Workspace at_update(const KernelGroup& set) const {
        Workspace work{};
        if (has_norms()) work.clips = work_.clips;
        if (info_of(set.rule).finalize) work.rules = work_.rules;
        return work;
    }

    void sum_gradients() {
        reserve_norms();
        clear(stream_, work_.clipped_sq_norms, segments_.size() * sizeof(double));
        clear(stream_, work_.found_nonfinite, sizeof *work_.found_nonfinite);
        for (const KernelGroup& set : kernel_groups_)
            for (const Launch& part : set.launches) {
                launch(common_.sum_gradients[set.is_double], set, part, part.list.sum_chunks, work_);
                launch(common_.finish_gradients[set.is_double], set, part, part.list.tensors, work_, kGradientTerms);
            }
    }

    void sum_gradients_to_read() {
        if (capturing_) throw std::runtime_error("norms cannot be read while a CUDA graph is captured");
        sum_gradients();
    }

    std::vector<double> read_doubles(const double* from, std::size_t count) {
        std::vector<double> values(count);
        if (count > 0) read(stream_, values.data(), from, count * sizeof(double));
        return values;
    }

    bool some_is_nonfinite() {
        std::int32_t found_nonfinite = 0;
        read(stream_, &found_nonfinite, work_.found_nonfinite, sizeof found_nonfinite);
        return found_nonfinite != 0;
    }

    void clip(std::optional<double> norm) {
        const bool bounds = std::any_of(constants_.begin(), constants_.end(),
                                        [](auto& each) { return each.clip_global_norm < INFINITY; });
        if (!bounds && !capturing_) return;
        Workspace work = work_;
        if (norm) {
            std::vector<std::byte> bytes(sizeof *norm);
            std::memcpy(bytes.data(), &*norm, sizeof *norm);
            put(reinterpret_cast<std::byte*>(work.norm), bytes);
        } else {
            work.norm = nullptr;
        }
        arguments_.workspace = work;
        arguments_.tensors = std::uint32_t(segments_.size());
        run(common_.clip_all, 1);
    }

    void finalize() {
        for (const KernelGroup& set : kernel_groups_) reduce(set);
        launch(common_.add_groups, groups_, groups_.list.tensors, work_);
        for (const KernelGroup& set : kernel_groups_)
            if (const Kernel& kernel = kernels(set).finalize; kernel.launch)
                for (const Launch& part : set.launches)
                    launch(kernel, set, part, blocks_for(part.list.tensors, 128), at_finalize(set));
    }

    Workspace at_finalize(const KernelGroup& set) const {
        Workspace work = at_update(set);
        work.partials = work_.partials;
        work.sums = work_.sums;
        return work;
    }

    void reduce(const KernelGroup& set) {
        const RuleInfo& rule = info_of(set.rule);
        if (!rule.finalize) return;
        reserve_sums();
        if (!work_.rules) work_.rules = memory_->get<std::byte>(segments_.size() * kRuleBytes);
        const RuleKernels& all = kernels(set);
        for (const Launch& part : set.launches) {
            if (all.before_reduce.launch)
                launch(all.before_reduce, set, part, blocks_for(part.list.tensors, 128), at_finalize(set));
            if (!all.reduce.launch) continue;
            launch(all.reduce, set, part, part.list.sum_chunks, at_finalize(set));
            launch(common_.finish, set, part, part.list.tensors, at_finalize(set), rule.sums);
        }
    }

    // ---- the bandwidth probe

    // As many as there may be blocks; those that no block writes stay 0.
    void reserve_answers() {
        answers_count_ = 0;
        for (const KernelGroup& set : kernel_groups_)
            for (const Launch& part : set.launches)
                answers_count_ += part.list.update_chunks * (info_of(set.rule).reduced.empty() ? 1 : 2);
        const std::size_t bytes = answers_count_ * sizeof *answers_;
        answers_ = reinterpret_cast<std::uint64_t*>(answers_at_.grow_to(*memory_, bytes));
        if (bytes > 0) clear(stream_, answers_, bytes);
    }

    // The pass for the sums goes the update's way too.  Returns how many answers are its own.
    std::uint32_t launch_probe(const KernelGroup& set, const Launch& part, bool updates, std::uint64_t mask,
                               std::uint64_t* answers) {
        const RuleInfo& rule = info_of(set.rule);
        const std::span<const Access> access = updates ? rule.updated : rule.reduced;
        if (access.empty()) return 0;
        const unsigned written = arrays_with(Access::kWrite, access) | (updates ? kAlignedAverage : 0);
        const ProbeArguments numbers{mask, answers, arrays_with(Access::kRead, access), written};
        arguments_.numbers = nullptr;
        arguments_.desc_bytes = std::uint32_t(desc_bytes(rule));
        std::memcpy(arguments_.bytes, &numbers, sizeof numbers);
        const Kernel kernel = probe_kernel(rule.state.size(), set.is_double);
        launch(kernel, part, part.list.update_chunks, {}, sizeof numbers);
        return part.list.update_chunks;
    }

    std::mutex mutex_;
    const std::vector<Segment> segments_;
    const int device_;
    const CommonKernels common_;
    std::map<std::pair<int, bool>, RuleKernels> kernels_;

    // Of this step, and what was made for the one before that it can use again.
    Stream stream_{};
    bool capturing_ = false, measured_ = false;
    std::vector<Gradient> gradients_, items_of_step_;
    std::vector<StepConstants> constants_;
    std::vector<KernelGroup> kernel_groups_;
    Launch groups_;
    std::uint32_t sum_chunks_ = 0;
    std::vector<std::byte> numbers_[2];
    Arguments arguments_{};

    std::unique_ptr<Memory> memory_ = std::make_unique<Memory>();
    Workspace work_{};
    GrowBuffer partials_, many_numbers_[2], captured_numbers_[2];
    std::map<std::pair<int, bool>, GrowBuffer> tables_;
    GrowBuffer answers_at_;
    std::uint64_t* answers_ = nullptr;
    std::size_t answers_count_ = 0;
    std::optional<Captured> captured_;
};

}  // namespace

std::unique_ptr<Plan> make_plan(std::vector<Segment> segments, int device) {
    if (const std::string why_not = status(); !why_not.empty()) throw std::runtime_error(why_not);
    const int devices = device_count();
    if (device < 0 || device >= devices)
        throw std::runtime_error("expected a CUDA device from 0 to " + std::to_string(devices - 1) + ", got " +
                                 std::to_string(device));
    return std::make_unique<DevicePlan>(std::move(segments), device);
}

}  // namespace fo::cuda
