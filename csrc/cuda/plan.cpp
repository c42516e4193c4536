// A step on a device: which kernels, in which order, over which arrays.  Plain C++, for CUDA and for its emulation.
#include "../float_environment.h"
#include "cuda.h"
#include "device.h"
#include "job_list.h"
#include "kernels.h"
#include "limit.h"
#include "sums.h"

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
struct Place {
    std::byte* at = nullptr;
    std::size_t size = 0;

    std::byte* sized(Memory& memory, std::size_t bytes) {
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

bool bounds_norms(const Scalars& scalars) {
    return scalars.clip_norm < INFINITY || scalars.clip_global_norm < INFINITY;
}

const RuleInfo& info_of(int rule) { return rules()[std::size_t(rule)]; }

std::uint32_t blocks_for(std::uint32_t items, std::uint32_t each) { return (items + each - 1) / each; }

template <class T>
std::vector<std::byte> numbers_of(const std::vector<Scalars>& scalars) {
    std::vector<std::byte> bytes(scalars.size() * sizeof(Numbers<T>));
    for (std::size_t i = 0; i < scalars.size(); ++i) {
        const Scalars& each = scalars[i];
        const Gradient unclipped{nullptr, 1, 0, kOwnFormat<T>};
        Numbers<T> numbers{each.clip_norm, each.clip_global_norm, {}, Prepare<T>(each, unclipped)};
        std::memcpy(numbers.rule, sizeof(T) == 8 ? each.rule_f64 : each.rule_f32, kRuleBytes);
        std::memcpy(bytes.data() + i * sizeof numbers, &numbers, sizeof numbers);
    }
    return bytes;
}

// An array's bit in Wide: p, g, then the state.
unsigned bit_of(std::size_t i) {
    if (i < 2) return i == 0 ? kWideP : kWideG;
    return unsigned(kWideState) << (i - 2);
}

// Which arrays a pass does that with, by these bits.
unsigned arrays_with(Access wanted, std::span<const Access> all) {
    unsigned which = 0;
    for (std::size_t i = 0; i < all.size(); ++i)
        if (all[i] == wanted) which |= bit_of(i);
    return which;
}

// What one launch is told of its arrays; in the arguments unless it is on the device.
struct Part {
    JobList list;
    const std::byte* on_device = nullptr;
};

// The arrays of one rule in one compute type.
struct Set {
    int rule;
    bool is_double;
    std::vector<Item> items;
    std::vector<Part> parts;
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

    bool step(const std::vector<Gradient>& gradients, const std::vector<Scalars>& scalars, void* stream,
              std::optional<double> norm) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        const bool measured = prepare(gradients, scalars, stream) && measured_ && norm;
        measured_ = false;
        if (capturing_ && (skips() || norm))
            throw std::runtime_error(
                "skip_nonfinite, and norms over several devices, cannot be captured in a CUDA graph: "
                "the host has to know them before it goes on");
        if (has_norms()) {
            if (!measured) sum_gradients();
            if (!measured && skips() && some_is_odd()) return false;
            clip(norm);
        }
        adapt();
        for (const Set& set : sets_)
            for (const Part& part : set.parts)
                launch(kernels(set).update, set, part, part.list.update_chunks, at_update(set));
        return true;
    }

    std::optional<std::vector<double>> measure(const std::vector<Gradient>& gradients,
                                               const std::vector<Scalars>& scalars, void* stream) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        prepare(gradients, scalars, stream);
        sum_gradients_to_read();
        if (skips() && some_is_odd()) return std::nullopt;
        measured_ = true;
        return read_doubles(work_.lefts, segments_.size());
    }

    std::vector<double> squared_norms(const std::vector<Gradient>& gradients, const std::vector<Scalars>& scalars,
                                      void* stream) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        prepare(gradients, scalars, stream);
        sum_gradients_to_read();
        const auto sums = read_doubles(work_.sums, segments_.size() * kMaxSums);
        std::vector<double> squares;
        for (std::size_t i = 0; i < segments_.size(); ++i)
            squares.push_back(gradients[i].data ? sums[i * kMaxSums] : 0);
        return squares;
    }

    void limit(const std::vector<Gradient>& gradients, const std::vector<Scalars>& scalars, std::uint64_t mask,
               void* stream) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        if (!prepare(gradients, scalars, stream)) reserve_answers();
        std::uint64_t* answers = answers_;
        for (const bool updates : {false, true})
            for (const Set& set : sets_)
                for (const Part& part : set.parts) answers += launch_limit(set, part, updates, mask, answers);
    }

    std::uint64_t limit_answer(void* stream) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        std::vector<std::uint64_t> each(answers_count_);
        if (!each.empty()) read({device_, stream}, each.data(), answers_, each.size() * sizeof each[0]);
        return std::accumulate(each.begin(), each.end(), std::uint64_t{0}, std::bit_xor<>());
    }

    void advance(const std::vector<Scalars>& scalars, void* stream) override {
        const std::lock_guard lock(mutex_);
        const OnDevice here(device_);
        stream_ = {device_, stream};
        if (!captured_) throw std::runtime_error("no step of these arrays was captured in a CUDA graph");
        if (is_capturing(stream_))  // every replay would put this step's numbers back
            throw std::runtime_error(
                "graph_step: expected to be called before a replay, not while a graph is captured");
        bool fits = scalars.size() == captured_->rules.size();
        for (std::size_t i = 0; fits && i < scalars.size(); ++i)
            fits = scalars[i].rule == captured_->rules[i] && !scalars[i].skip_nonfinite &&
                   (captured_->has_norms || !bounds_norms(scalars[i]));
        if (!fits)
            throw std::runtime_error(
                "the options are no longer those of the step that was captured in a CUDA graph: "
                "capture it again");
        const DefaultFloatEnvironment environment;
        put(captured_numbers_[0].at, numbers_of<float>(scalars));
        put(captured_numbers_[1].at, numbers_of<double>(scalars));
    }

  private:
    bool skips() const {
        return std::any_of(scalars_.begin(), scalars_.end(), [](auto& each) { return each.skip_nonfinite; });
    }
    bool has_norms() const { return skips() || std::any_of(scalars_.begin(), scalars_.end(), bounds_norms); }

    const RuleKernels& kernels(const Set& set) {
        RuleKernels& known = kernels_[{set.rule, set.is_double}];
        if (!known.update.launch) known = kernels_of(set.rule, set.is_double);
        return known;
    }

    // ---- what the kernels are told

    // Whether it is as in the step before but for the numbers.
    bool prepare(const std::vector<Gradient>& gradients, const std::vector<Scalars>& scalars, void* stream) {
        stream_ = {device_, stream};
        const bool was_capturing = std::exchange(capturing_, is_capturing(stream_));
        const bool same = was_capturing == capturing_ && is_same(gradients, scalars);
        scalars_ = scalars;
        if (!same) {
            gradients_.clear();  // should something fail on the way, the next step begins anew
            make_sets(gradients);
            gradients_ = gradients;
        }
        make_numbers();
        return same;
    }

    bool is_same(const std::vector<Gradient>& gradients, const std::vector<Scalars>& scalars) const {
        const auto same_gradient = [](const Gradient& a, const Gradient& b) {
            return a.data == b.data && a.format == b.format && a.scalars == b.scalars;
        };
        const auto same_rule = [](const Scalars& a, const Scalars& b) { return a.rule == b.rule; };
        return std::equal(gradients.begin(), gradients.end(), gradients_.begin(), gradients_.end(), same_gradient) &&
               std::equal(scalars.begin(), scalars.end(), scalars_.begin(), scalars_.end(), same_rule);
    }

    void make_sets(const std::vector<Gradient>& gradients) {
        sets_.clear();
        items_of_step_ = gradients;
        for (std::size_t i = 0; i < segments_.size(); ++i) {
            const Gradient& gradient = items_of_step_[i];
            if (!gradient.data) continue;
            const int rule = scalars_[std::size_t(gradient.scalars)].rule;
            const bool is_double = segments_[i].format == Format::kFloat64;
            auto set = std::find_if(sets_.begin(), sets_.end(),
                                    [=](const Set& each) { return each.rule == rule && each.is_double == is_double; });
            if (set == sets_.end()) set = sets_.insert(sets_.end(), Set{rule, is_double, {}, {}});
            set->items.push_back({&segments_[i], &gradient, std::uint32_t(i)});
        }
        sum_chunks_ = 0;
        for (Set& set : sets_) make_parts(set);
        make_groups();
    }

    // One part where the table fits into the arguments, else one whose table waits in device memory.  The arguments of
    // a graph are its own, which that memory is not: while one is captured there are as many parts as it takes.
    void make_parts(Set& set) {
        const RuleInfo& rule = info_of(set.rule);
        const std::size_t room = jobs_within(kTableBytes - numbers_in_arguments(set), rule);
        const bool fits = set.items.size() <= room;
        const std::size_t each = fits || !capturing_ ? set.items.size() : room;
        const std::span<const Item> items(set.items);
        for (std::size_t first = 0; first < items.size(); first += each) {
            const auto some = items.subspan(first, std::min(each, items.size() - first));
            Part part{make_jobs(some, rule, sum_chunks_)};
            sum_chunks_ += part.list.sum_chunks;
            if (!fits && !capturing_) part.on_device = put_table({set.rule, set.is_double}, part.list.table);
            set.parts.push_back(std::move(part));
        }
    }

    // The arrays whose rule wants sums over their group, by group and in order.
    void make_groups() {
        std::map<std::int32_t, std::vector<std::uint32_t>> groups;
        for (const Set& set : sets_)
            if (info_of(set.rule).sums_of_group)
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
    std::size_t numbers_in_arguments(const Set& set) const {
        const std::size_t bytes = scalars_.size() * (set.is_double ? sizeof(Numbers<double>) : sizeof(Numbers<float>));
        return capturing_ || bytes > kTableBytes / 2 ? 0 : bytes;
    }

    void make_numbers() {
        const DefaultFloatEnvironment environment;
        numbers_[0] = numbers_of<float>(scalars_);
        numbers_[1] = numbers_of<double>(scalars_);
        if (capturing_) note_capture();
        for (const Set& set : sets_) {
            const auto& numbers = numbers_[set.is_double];
            if (!capturing_ && numbers_in_arguments(set) == 0)
                put(many_numbers_[set.is_double].sized(*memory_, numbers.size()), numbers);
        }
    }

    const std::byte* numbers_on_device(const Set& set) const {
        if (capturing_) return captured_numbers_[set.is_double].at;
        return numbers_in_arguments(set) == 0 ? many_numbers_[set.is_double].at : nullptr;
    }

    // Graphs read their numbers where the first of them did, so that is not to move.
    void note_capture() {
        for (const int is_double : {0, 1}) {
            const std::size_t bytes = numbers_[is_double].size();
            if (captured_ && captured_numbers_[is_double].size < bytes)
                throw std::runtime_error("a step with fewer different updates was captured in a CUDA graph before");
            captured_numbers_[is_double].sized(*memory_, std::max(bytes, 64 * sizeof(Numbers<double>)));
        }
        captured_.emplace(Captured{{}, has_norms()});
        for (const Scalars& each : scalars_) captured_->rules.push_back(each.rule);
    }

    // ---- launches

    void put(std::byte* to, const std::vector<std::byte>& bytes) {
        for (std::size_t done = 0; done < bytes.size(); done += kTableBytes) {
            const std::size_t some = std::min(kTableBytes, bytes.size() - done);
            arguments_.table = to + done;
            arguments_.jobs = std::uint32_t((some + sizeof(Vector) - 1) / sizeof(Vector));
            std::memcpy(arguments_.bytes, bytes.data() + done, some);
            run(common_.put, blocks_for(arguments_.jobs, 256));
        }
    }

    const std::byte* put_table(std::pair<int, bool> which, const std::vector<std::byte>& table) {
        std::byte* const at = tables_[which].sized(*memory_, table.size());
        put(at, table);
        return at;
    }

    void launch(const Kernel& kernel, const Set& set, const Part& part, std::uint32_t blocks, const Workspace& work,
                int sums = 0) {
        const std::size_t numbers = numbers_in_arguments(set);
        arguments_.numbers = numbers_on_device(set);
        std::memcpy(arguments_.bytes, numbers_[set.is_double].data(), numbers);
        arguments_.job_bytes = std::uint32_t(job_bytes(info_of(set.rule)));
        arguments_.sums = std::uint32_t(sums);
        launch(kernel, part, blocks, work, numbers);
    }

    void launch(const Kernel& kernel, const Part& part, std::uint32_t blocks, const Workspace& work,
                std::size_t table_at = 0) {
        const auto& table = part.list.table;
        arguments_.table = part.on_device;
        arguments_.table_at = std::uint32_t(table_at);
        if (!part.on_device) std::memcpy(arguments_.bytes + table_at, table.data(), table.size());
        arguments_.jobs = part.list.jobs;
        arguments_.workspace = work;
        run(kernel, blocks);
    }

    void run(const Kernel& kernel, std::uint32_t blocks) {
        if (blocks > 0) check(kernel.launch(stream_, arguments_, blocks), described(kernel));
    }

    // ---- passes

    void reserve_sums() {
        const std::size_t partials = std::size_t(sum_chunks_) * kMaxSums * sizeof(double);
        work_.partials = reinterpret_cast<double*>(partials_.sized(*memory_, partials));
        if (!work_.sums) work_.sums = memory_->get<double>(segments_.size() * kMaxSums);
    }

    void reserve_norms() {
        reserve_sums();
        if (work_.clips) return;
        work_.lefts = memory_->get<double>(segments_.size());
        work_.bounds = memory_->get<double>(segments_.size());
        work_.norm = memory_->get<double>(1);
        work_.odd = memory_->get<std::int32_t>(1);
        work_.clips = memory_->get<double>(segments_.size());
    }

    // Every pass sees what it needs and nothing that an earlier step left.
    Workspace at_update(const Set& set) const {
        Workspace work{};
        if (has_norms()) work.clips = work_.clips;
        if (info_of(set.rule).adapt) work.rules = work_.rules;
        return work;
    }

    void sum_gradients() {
        reserve_norms();
        clear(stream_, work_.lefts, segments_.size() * sizeof(double));
        clear(stream_, work_.odd, sizeof *work_.odd);
        for (const Set& set : sets_)
            for (const Part& part : set.parts) {
                launch(common_.sum_gradients[set.is_double], set, part, part.list.sum_chunks, work_);
                launch(common_.finish_gradients[set.is_double], set, part, part.list.jobs, work_, kGradientTerms);
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

    bool some_is_odd() {
        std::int32_t odd = 0;
        read(stream_, &odd, work_.odd, sizeof odd);
        return odd != 0;
    }

    void clip(std::optional<double> norm) {
        const bool bounds =
            std::any_of(scalars_.begin(), scalars_.end(), [](auto& each) { return each.clip_global_norm < INFINITY; });
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
        arguments_.jobs = std::uint32_t(segments_.size());
        run(common_.clip_all, 1);
    }

    void adapt() {
        for (const Set& set : sets_) measure(set);
        launch(common_.add_groups, groups_, groups_.list.jobs, work_);
        for (const Set& set : sets_)
            if (const Kernel& kernel = kernels(set).adapt; kernel.launch)
                for (const Part& part : set.parts)
                    launch(kernel, set, part, blocks_for(part.list.jobs, 128), at_adapt(set));
    }

    Workspace at_adapt(const Set& set) const {
        Workspace work = at_update(set);
        work.partials = work_.partials;
        work.sums = work_.sums;
        return work;
    }

    void measure(const Set& set) {
        const RuleInfo& rule = info_of(set.rule);
        if (!rule.adapt) return;
        reserve_sums();
        if (!work_.rules) work_.rules = memory_->get<std::byte>(segments_.size() * kRuleBytes);
        const RuleKernels& all = kernels(set);
        for (const Part& part : set.parts) {
            if (all.begin.launch) launch(all.begin, set, part, blocks_for(part.list.jobs, 128), at_adapt(set));
            if (!all.measure.launch) continue;
            launch(all.measure, set, part, part.list.sum_chunks, at_adapt(set));
            launch(common_.finish, set, part, part.list.jobs, at_adapt(set), rule.sums);
        }
    }

    // ---- the limit

    // As many as there may be blocks; those that no block writes stay 0.
    void reserve_answers() {
        answers_count_ = 0;
        for (const Set& set : sets_)
            for (const Part& part : set.parts)
                answers_count_ += part.list.update_chunks * (info_of(set.rule).measured.empty() ? 1 : 2);
        const std::size_t bytes = answers_count_ * sizeof *answers_;
        answers_ = reinterpret_cast<std::uint64_t*>(answers_at_.sized(*memory_, bytes));
        if (bytes > 0) clear(stream_, answers_, bytes);
    }

    // The pass for the sums goes the update's way too.  Returns how many answers are its own.
    std::uint32_t launch_limit(const Set& set, const Part& part, bool updates, std::uint64_t mask,
                               std::uint64_t* answers) {
        const RuleInfo& rule = info_of(set.rule);
        const std::span<const Access> access = updates ? rule.updated : rule.measured;
        if (access.empty()) return 0;
        const unsigned written = arrays_with(Access::kWrite, access) | (updates ? kWideAverage : 0);
        const LimitNumbers numbers{mask, answers, arrays_with(Access::kRead, access), written};
        arguments_.numbers = nullptr;
        arguments_.job_bytes = std::uint32_t(job_bytes(rule));
        std::memcpy(arguments_.bytes, &numbers, sizeof numbers);
        const Kernel kernel = limit_kernel(rule.state.size(), set.is_double);
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
    std::vector<Scalars> scalars_;
    std::vector<Set> sets_;
    Part groups_;
    std::uint32_t sum_chunks_ = 0;
    std::vector<std::byte> numbers_[2];
    Arguments arguments_{};

    std::unique_ptr<Memory> memory_ = std::make_unique<Memory>();
    Workspace work_{};
    Place partials_, many_numbers_[2], captured_numbers_[2];
    std::map<std::pair<int, bool>, Place> tables_;
    Place answers_at_;
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
