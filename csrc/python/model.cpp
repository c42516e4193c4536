#include "model.h"

#include "../block_codes.h"
#include "../cpu/axis_sums.h"
#include "../cpu/device.h"
#include "../cpu/isa.h"
#include "../cpu/noise.h"
#include "../cuda/cuda.h"
#include "../expect.h"
#include "../formats.h"
#include "../rule_info.h"
#include "gil.h"
#include "references.h"

#include <algorithm>
#include <array>

namespace fo {
namespace {

std::unique_ptr<Device> make_device(const Model::Where& where, const std::vector<Segment>& segments) {
    if (const int* gpu = std::get_if<int>(&where)) return cuda::make_device(segments, *gpu);
    const std::string& isa = std::get<std::string>(where);
    return cpu::make_device((isa.empty() ? cpu::default_isa() : cpu::named_isa(isa)).loops);
}

Compression compression_of(const std::string& name) {
    constexpr std::array names{"", "rounded", "signed", "non-negative"};
    const auto* const found = std::find(names.begin(), names.end(), name);
    expect(found != names.end(), "a compression");
    return static_cast<Compression>(found - names.begin());
}

void* as_pointer(Address address) { return reinterpret_cast<void*>(address); }

}  // namespace

py::tuple as_tuple(const StepResult& result) {
    static const auto names = [] {  // never freed: they are interned
        constexpr std::array all{"stepped", "skipped", "parameter changed", "gradient unrecognized", "captured"};
        std::array<PyObject*, all.size()> interned;
        std::transform(all.begin(), all.end(), interned.begin(), &PyUnicode_InternFromString);
        return interned;
    }();
    return py::make_tuple(py::handle(names[static_cast<std::size_t>(result.status)]), result.value);
}

std::vector<py::object> objects_of(const py::list& list) {
    std::vector<py::object> objects;
    objects.reserve(list.size());
    while (py::object object = entry_of(list, static_cast<Py_ssize_t>(objects.size())))
        objects.push_back(std::move(object));
    return objects;
}

void Counts::advance() const {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(after.ptr()); ++i)
        if (PyList_SetItem(now.ptr(), i, py::object(after[static_cast<std::size_t>(i)]).release().ptr())) PyErr_Clear();
}

Model::Model(std::vector<py::array> params, std::vector<State> states, std::vector<int> groups, const Where& where,
             py::object array_type, std::shared_ptr<const ArrayReader> reader, std::vector<py::object> owners,
             const std::optional<std::vector<int>>& param_of, py::object rows_type,
             const std::vector<std::optional<py::array>>& copies, const std::vector<std::optional<py::array>>& extras,
             const std::vector<std::uint32_t>& indices, std::vector<CompressedState> compressed)
    : params_(std::move(params)),
      states_(std::move(states)),
      copies_(copies),
      extras_(extras),
      compressed_(std::move(compressed)),
      groups_(std::move(groups)),
      on_gpu_(std::holds_alternative<int>(where)),
      array_type_(std::move(array_type)),
      rows_type_(std::move(rows_type)),
      reader_(std::move(reader)),
      owners_(std::move(owners)),
      recognized_(params_.size()),
      disjoint_(std::make_unique<std::atomic<std::uintptr_t>[]>(params_.size())) {
    expect(states_.size() == params_.size() && groups_.size() == params_.size(), "one state and one group an array");
    expect(owners_.empty() || (owners_.size() == params_.size() && reader_), "one owner an array, and a reader");
    std::size_t states_count = 0, scalars_count = 0;
    for (const auto& [state, scalars, average] : states_) {
        expect(state.size() <= kMaxState && scalars.size() <= kMaxScalarState && average.size() <= 1,
               "fewer state arrays");
        states_count += state.size();
        scalars_count += scalars.size();
    }
    state_refs_.reserve(states_count);  // segments point into these
    compression_refs_.resize(states_count);
    scalar_states_.reserve(scalars_count);
    copies_.resize(params_.size());
    copy_identities_.resize(params_.size());
    extras_.resize(params_.size());
    expect(copies.empty() || copies.size() == params_.size(), "one copy or none an array");
    expect(extras.empty() || extras.size() == params_.size(), "extra bits or none an array");
    expect(compressed_.empty() || compressed_.size() == params_.size(), "compressed state or none an array");
    compressed_.resize(params_.size());
    expect(indices.empty() || indices.size() == params_.size(), "one index an array");
    expect(!param_of || param_of->size() == params_.size(), "one parameter an array");
    for (std::size_t i = 0; i < params_.size(); ++i) {
        const int before = i == 0 ? -1 : segments_.back().param;
        const int param = param_of ? (*param_of)[i] : before + 1;
        expect(param == before + 1 || (i > 0 && param == before), "parameters that count up from 0");
        add_segment(i, param);
        segments_[i].random_param = indices.empty() ? static_cast<std::uint32_t>(param) : indices[i];
        if (param == before) segments_[i].first_element = segments_[i - 1].first_element + segments_[i - 1].p.size;
        expect(!segments_[i].compression || segments_[i].first_element % kCodeBlock == 0, "segments of whole blocks");
    }
    std::sort(own_.begin(), own_.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
    device_ = make_device(where, segments_);
}

// Freeing a GPU's memory may wait for functions of the host that need the lock.
Model::~Model() {
    if (!on_gpu_) return;
    try {
        const GilRelease unlocked;
        device_.reset();
    } catch (const std::exception&) {  // a thread that is to end keeps the lock
    }
}

void Model::add_segment(std::size_t i, int param) {
    const auto own = [this](const py::array& array) {
        expect(array.writeable(), "a writeable array");
        const ArrayRef ref = make_array_ref(array);
        if (ref.size > 0) own_.push_back(interval_of(ref.data, ref.size, ref.format));
        expect(!on_gpu_ || reinterpret_cast<Address>(ref.data) % FO_TARGET::item_size(ref.format) == 0,
               "an address that is a multiple of the item size");
        return ref;
    };
    const auto& [state, scalars, average] = states_[i];
    Segment segment{};
    segment.p = own(params_[i]);
    segment.param = param;
    (compute_format(segment.p.format) == Format::kFloat64 ? types_.f64 : types_.f32) = true;
    segment.state = state_refs_.data() + state_refs_.size();
    segment.scalar_state = scalar_states_.data() + scalar_states_.size();
    layouts_.emplace_back(params_[i]);
    const CompressedState& compressed = compressed_[i];
    expect(compressed.empty() || compressed.size() == state.size(), "one compression a state array");
    if (!compressed.empty()) segment.compression = compression_refs_.data() + state_refs_.size();
    for (std::size_t k = 0; k < state.size(); ++k) {
        if (compressed.empty() || !compressed[k]) {
            state_refs_.push_back(own_state(state[k], own(state[k]), i));
            continue;
        }
        const auto& [name, scales] = *compressed[k];
        CompressionRef& ref = compression_refs_[state_refs_.size()];
        ref.kind = compression_of(name);
        state_refs_.push_back(add_codes(state[k], scales, ref, segment.p));
    }
    for (const py::array& number : scalars) {
        const ArrayRef ref = own(number);
        expect(ref.size == 1 && ref.format == Format::kFloat64, "scalar state of one float64 number");
        scalar_states_.push_back(static_cast<double*>(ref.data));
    }
    segment.average = average.empty() ? ArrayRef{nullptr, 0, compute_format(segment.p.format)} : own(average[0]);
    if (copies_[i]) {
        copy_identities_[i].emplace(*copies_[i]);
        segment.copy = own(*copies_[i]);
        expect(segment.copy.size == segment.p.size && FO_TARGET::item_size(segment.copy.format) == 2,
               "a copy of 16 bits of the parameter's size");
    }
    if (const auto& extra = extras_[i]) {
        const auto item = static_cast<std::size_t>(extra->itemsize());
        const bool is_integer = extra->dtype().kind() == 'i';
        segment.extra = {raw(*extra).data, item == 1    ? Extra::kBits8
                                           : is_integer ? Extra::kBits16
                                                        : Extra::kCompensation};
        expect(FO_TARGET::item_size(segment.p.format) == 2 && extra->size() == segment.p.size && extra->writeable() &&
                   (is_integer ? item <= 2 : format_of(*extra) == segment.p.format),
               "extra bits of a parameter of 16 bits");
        add_own(segment.extra.data, item * static_cast<std::size_t>(segment.p.size));
    }
    expect(average.empty() || segment.average.size == segment.p.size, "an average of the parameter's size");
    segment.rows = layouts_[i].row_shape();
    if (const auto order = layouts_[i].order()) segment.rows.order = &axis_orders_.emplace_back(*order);
    segments_.push_back(segment);
    identities_.emplace_back(params_[i]);
}

void Model::add_own(const void* data, std::size_t bytes) {
    const auto begin = reinterpret_cast<Address>(data);
    if (bytes > 0) own_.push_back({begin, begin + bytes});
}

// Describe the codes of a compressed array, which have the place of its elements.
ArrayRef Model::add_codes(const py::array& codes, const std::optional<py::array>& scales, CompressionRef& ref,
                          const ArrayRef& p) {
    const std::size_t item = has_blocks(ref.kind) ? 1 : 2;
    expect(codes.writeable() && static_cast<std::size_t>(codes.itemsize()) == item && codes.size() == p.size,
           "writeable codes of the parameter's size");
    add_own(raw(codes).data, item * static_cast<std::size_t>(p.size));
    if (!has_blocks(ref.kind)) return {raw(codes).data, p.size, Format::kBfloat16};
    expect(scales && scales->writeable() && scales->itemsize() == sizeof(float) &&
               scales->size() == (p.size + kCodeBlock - 1) / kCodeBlock,
           "a writeable scale of float32 for each block");
    ref.scales = static_cast<float*>(static_cast<void*>(raw(*scales).data));
    add_own(ref.scales, sizeof(float) * static_cast<std::size_t>(scales->size()));
    return {raw(codes).data, p.size, compute_format(p.format)};
}

// State of another layout than the parameter's but as many axes is broadcast to its shape, and only read.
ArrayRef Model::own_state(const py::array& array, const ArrayRef& dense, std::size_t i) {
    const Layout& layout = layouts_[i];
    if (layout.fits(array) || array.ndim() != params_[i].ndim()) return dense;
    if (params_[i].size() == 0) return {dense.data, 0, dense.format};
    const auto axes = layout.axes_of_broadcast(array);
    expect(axes.has_value(), "state of the parameter's shape, or one that is broadcast to it");
    axes_.push_back(std::make_unique<const Axes>(*axes));
    return {dense.data, params_[i].size(), dense.format, axes_.back().get()};
}

void Model::expect_state(std::size_t i, const StepConstants& constants) const {
    const auto& [state, scalars, average] = states_[i];
    const RuleInfo& rule = rule_info(constants.rule);
    expect(rule.state.size() == state.size() && rule.scalar_state.size() == scalars.size() &&
               (constants.average_weight == 0 || !average.empty()),
           "the rule's state arrays");
    const Segment& segment = segments_[i];
    for (std::size_t k = 0; k < state.size(); ++k) {
        const bool is_of_rows = k >= element_states(rule);
        expect(segment.state[k].size == (is_of_rows ? layouts_[i].rows() : segment.p.size) &&
                   (!is_of_rows || segment.state[k].format == compute_format(segment.p.format)),
               "state of the parameter's size, or of its rows");
    }
}

void Model::expect_groups(const std::vector<StepConstants>& constants) const {
    for (std::size_t i = 0; i < count(); ++i) {
        const auto group = static_cast<std::size_t>(groups_[i]);
        expect(group < constants.size(), "one step a group");
        expect_state(i, constants[group]);
    }
}

// ---- gradients

bool Model::overlaps_own(Interval grad) const {
    const auto next = std::upper_bound(own_.begin(), own_.end(), grad.begin,
                                       [](auto address, auto& own) { return address < own.end; });
    return next != own_.end() && next->begin < grad.end;
}

bool Model::is_unchanged(std::size_t i) const {
    if (!on_gpu_ && !(identities_[i].is_of(params_[i]) && layouts_[i].fits(params_[i]))) return false;
    if (!on_gpu_ && copies_[i] && !copy_identities_[i]->is_of(*copies_[i])) return false;
    if (owners_.empty() || segments_[i].p.size == 0) return true;
    return as_pointer(reader_->address_of(owners_[i])) == segments_[i].p.data;
}

bool Model::recognize_family(std::size_t i, py::handle grad, Gradient& gradient) const {
    const auto like = recognized_[i];  // shared, since reading attributes may run code that calls remember()
    if (!like || reinterpret_cast<PyObject*>(Py_TYPE(grad.ptr())) != like->type.ptr()) return false;
    const auto address = reader_->address_if_like(grad, like->key);
    if (!address) return false;
    gradient.data = as_pointer(*address);
    gradient.format = like->format;
    return *address % FO_TARGET::item_size(like->format) == 0;
}

// Transposed, strided, reversed and broadcast arrays of the CPU are read where they are.
bool Model::recognize_strided(std::size_t i, py::handle grad, Gradients& gradients) const {
    Gradient& gradient = gradients.each[i];
    const auto axes = on_gpu_ ? std::nullopt : layouts_[i].axes_of(grad);
    if (!axes || overlaps_own(interval_of(gradient.data, *axes, gradient.format))) return false;
    gradients.axes.push_back(std::make_unique<const Axes>(*axes));
    gradient.axes = gradients.axes.back().get();
    return true;
}

// Gradients of some rows: indices and values, arrays of the CPU in any memory order, or of a GPU in C order.
bool Model::recognize_rows(std::size_t i, py::handle grad, Gradients& gradients) const {
    auto held = std::make_unique<Gradients::HeldRows>();
    const py::object index = grad.attr("index");
    held->values = grad.attr("values");
    const py::handle values = held->values;
    if (reinterpret_cast<PyObject*>(Py_TYPE(values.ptr())) != array_type_.ptr()) return false;
    const auto format = format_of(values);
    held->index = py::isinstance<RowIndex>(index) ? index.cast<std::shared_ptr<const RowIndex>>()
                                                  : RowIndex::try_make(index, layouts_[i].rows());
    if (!format || !held->index) return false;
    Gradient& gradient = gradients.each[i];
    gradient.data = raw(values).data;
    gradient.format = *format;
    const auto axes = layouts_[i].axes_of_rows(values, held->index->gradient_rows());
    if (!axes) return false;
    held->rows = held->index->view(layouts_[i].row_size());
    if (held->rows.size() == 0) {
        gradient.data = &segments_[i];  // any address that is not null: it is never read
    } else if (overlaps_own(interval_of(gradient.data, *axes, gradient.format))) {
        return false;
    } else if (axes->count > 1 || axes->stride[0] != std::int64_t(FO_TARGET::item_size(gradient.format))) {
        if (on_gpu_) return false;
        gradients.axes.push_back(std::make_unique<const Axes>(*axes));
        gradient.axes = gradients.axes.back().get();
    }
    gradient.rows = &held->rows;
    gradients.rows.push_back(std::move(held));
    return true;
}

bool Model::recognize(std::size_t i, py::handle grad, Gradients& gradients) const {
    Gradient& gradient = gradients.each[i];
    if (reinterpret_cast<PyObject*>(Py_TYPE(grad.ptr())) == rows_type_.ptr()) return recognize_rows(i, grad, gradients);
    if (reinterpret_cast<PyObject*>(Py_TYPE(grad.ptr())) == array_type_.ptr()) {
        const auto format = format_of(grad);
        if (!format) return false;
        gradient.data = raw(grad).data;
        gradient.format = *format;
        if (!layouts_[i].fits(grad)) return recognize_strided(i, grad, gradients);
    } else if (!recognize_family(i, grad, gradient)) {
        return false;
    }
    static_assert(kFormatNames.size() <= 16);
    // First, since it needs no look at the segment: most callers pass the same buffers in every step.
    const auto seen =
        reinterpret_cast<std::uintptr_t>(gradient.data) * 16 + static_cast<std::uintptr_t>(gradient.format);
    if (gradient.data && disjoint_[i].load(std::memory_order_relaxed) == seen) return true;
    const std::int64_t size = segments_[i].p.size;
    if (size == 0) {
        gradient.data = &segments_[i];  // any address that is not null: it is never read
        return true;
    }
    if (overlaps_own(interval_of(gradient.data, size, gradient.format))) return false;
    disjoint_[i].store(seen, std::memory_order_relaxed);
    return true;
}

void Model::remember(std::size_t i, const py::object& grad, const py::array& metadata) {
    expect(i < count() && reader_, "an array of the model, whose family has a reader");
    const auto format = format_of(metadata);
    expect(format.has_value(), "a gradient of a known dtype");
    recognized_[i] = std::make_shared<const Recognized>(Recognized{py::type::of(grad), reader_->key_of(grad), *format});
}

Gradients Model::no_gradients() const {
    Gradients gradients{std::vector<Gradient>(count()), {}, {}};
    for (std::size_t i = 0; i < count(); ++i)
        gradients.each[i] = {.data = nullptr, .clip = 1, .constants = groups_[i], .format = {}};
    return gradients;
}

StepResult Model::read_gradients(const std::vector<py::object>& grads, Gradients& gradients) const {
    std::int64_t present = 0;
    for (std::size_t i = 0; i < count(); ++i) {
        const auto at = static_cast<std::int64_t>(i);
        if (!is_unchanged(i)) return {StepResult::Status::kParameterChanged, at};
        if (grads[i].is_none()) continue;
        if (!recognize(i, grads[i], gradients)) return {StepResult::Status::kGradientUnrecognized, at};
        ++present;
    }
    return {StepResult::Status::kStepped, present};
}

StepResult Model::recognize(const py::list& grads, const std::optional<std::vector<int>>& step_of,
                            const std::vector<GroupStep>& group_steps) const {
    Prepared prepared;
    return prepare(grads, step_of, group_steps, prepared);
}

// Which rules need whole arrays depends on options that may have changed since the model was made.
StepResult Model::check_rows(const StepResult& read, const Gradients& gradients,
                             const std::vector<StepConstants>& constants) const {
    if (gradients.rows.empty() || read.status != StepResult::Status::kStepped) return read;
    for (std::size_t i = 0; i < count(); ++i) {
        const StepConstants& own = constants[static_cast<std::size_t>(gradients.each[i].constants)];
        const RuleInfo& rule = rule_info(own.rule);
        const bool needs_all = rule.sums > 0 || rule.scalar_state.size() > 0 || own.cautious;
        if (gradients.each[i].rows && (needs_all || cuts_blocks(i)))
            return {StepResult::Status::kGradientUnrecognized, static_cast<std::int64_t>(i)};
    }
    return read;
}

// Whether rows of the parameter do not consist of whole blocks of a compressed array.
bool Model::cuts_blocks(std::size_t i) const {
    const CompressionRef* const refs = segments_[i].compression;
    if (!refs || layouts_[i].row_size() % kCodeBlock == 0) return false;
    return std::any_of(refs, refs + compressed_[i].size(),
                       [](const CompressionRef& ref) { return has_blocks(ref.kind); });
}

// ---- steps

std::vector<StepConstants> Model::constants_of(const std::vector<GroupStep>& group_steps) const {
    std::vector<StepConstants> constants;
    constants.reserve(group_steps.size());
    for (const auto& [config, lr, t, grad_scale, host_constants] : group_steps) {
        expect(config != nullptr, "options");
        constants.push_back(config->constants_for_step(lr, t, grad_scale, host_constants, types_));
    }
    return constants;
}

StepArgs Model::arguments(Gradients& gradients, std::vector<StepConstants>& constants) const {
    return {segments_.data(), gradients.each.data(), static_cast<std::int64_t>(count()), constants.data(),
            static_cast<std::int64_t>(constants.size())};
}

StepResult Model::prepare(const py::list& grads, const std::optional<std::vector<int>>& step_of,
                          const std::vector<GroupStep>& group_steps, Prepared& prepared) const {
    const std::vector<int>& which = step_of ? *step_of : groups_;
    prepared.held = objects_of(grads);
    expect(prepared.held.size() == count() && which.size() == count(), "one gradient and one step an array");
    prepared.gradients = no_gradients();
    const StepResult result = read_gradients(prepared.held, prepared.gradients);
    if (result.status != StepResult::Status::kStepped) return result;
    prepared.constants = constants_of(group_steps);
    for (std::size_t i = 0; i < count(); ++i) {
        const auto step = static_cast<std::size_t>(which[i]);
        expect(step < prepared.constants.size(), "a group's step");
        prepared.gradients.each[i].constants = which[i];
        if (takes_part(arguments(prepared.gradients, prepared.constants), static_cast<std::int64_t>(i)))
            expect_state(i, prepared.constants[step]);
        if (const Rows* rows = prepared.gradients.each[i].rows; rows && rows->constants)
            expect(std::all_of(rows->constants, rows->constants + rows->count,
                               [&](auto k) { return std::size_t(k) < prepared.constants.size(); }),
                   "constants of each row");
    }
    return check_rows(result, prepared.gradients, prepared.constants);
}

bool Model::run(Gradients& gradients, std::vector<StepConstants>& constants, void* stream, const Elsewhere& elsewhere) {
    {
        const GilRelease unlocked;
        if (!device_->step(arguments(gradients, constants), stream, elsewhere)) return false;
    }
    for (const auto& held : gradients.rows) held->index->count();
    return true;
}

py::tuple Model::step(const py::list& grads, const std::optional<std::vector<int>>& step_of,
                      const std::vector<GroupStep>& group_steps, Address stream, std::optional<double> global_norm,
                      std::vector<double> sums, const Counts& counts) {
    const bool has_sums = !sums.empty();
    sums.resize(kMaxSums);
    Prepared prepared;
    const StepResult result = prepare(grads, step_of, group_steps, prepared);
    py::tuple shown = as_tuple(result);  // allocated before the step
    if (result.status != StepResult::Status::kStepped) return shown;
    if (!run(prepared.gradients, prepared.constants, as_pointer(stream),
             {global_norm, has_sums ? sums.data() : nullptr}))
        return as_tuple({StepResult::Status::kSkipped, 0});
    counts.advance();
    return shown;
}

std::optional<std::vector<double>> Model::clipped_norms(const py::list& grads,
                                                        const std::optional<std::vector<int>>& step_of,
                                                        const std::vector<GroupStep>& group_steps, Address stream) {
    Prepared prepared;
    const StepResult result = prepare(grads, step_of, group_steps, prepared);
    expect(result.status == StepResult::Status::kStepped, "gradients that were recognized before");
    const GilRelease unlocked;
    return device_->clipped_norms(arguments(prepared.gradients, prepared.constants), as_pointer(stream));
}

std::vector<double> Model::rule_sums(const py::list& grads, const std::optional<std::vector<int>>& step_of,
                                     const std::vector<GroupStep>& group_steps, Address stream,
                                     std::optional<double> global_norm) {
    Prepared prepared;
    const StepResult result = prepare(grads, step_of, group_steps, prepared);
    expect(result.status == StepResult::Status::kStepped, "gradients that were recognized before");
    const GilRelease unlocked;
    return device_->rule_sums(arguments(prepared.gradients, prepared.constants), as_pointer(stream), {global_norm});
}

void Model::advance(const std::optional<std::vector<int>>& step_of, const std::vector<GroupStep>& group_steps,
                    Address stream) {
    expect(!step_of || step_of->size() == count(), "one step an array");
    const std::vector<StepConstants> constants = constants_of(group_steps);
    const GilRelease unlocked;
    device_->advance(constants, as_pointer(stream));
}

int Model::traverse(visitproc visit, void* arg) const {
    const auto visit_all = [&](const auto& objects) {
        for (const auto& object : objects)
            if (const int stop = object ? visit(object.ptr(), arg) : 0) return stop;
        return 0;
    };
    if (const int stop = visit_all(params_)) return stop;
    for (const auto& [state, scalars, average] : states_)
        for (const auto* arrays : {&state, &scalars, &average})
            if (const int stop = visit_all(*arrays)) return stop;
    for (const auto* optional : {&copies_, &extras_})
        for (const auto& array : *optional)
            if (const int stop = array && *array ? visit(array->ptr(), arg) : 0) return stop;
    for (const CompressedState& arrays : compressed_)
        for (const auto& array : arrays)
            if (const auto* scales = array ? &std::get<1>(*array) : nullptr; scales && *scales)
                if (const int stop = visit((*scales)->ptr(), arg)) return stop;
    for (const auto& like : recognized_) {
        if (!like) continue;
        if (const int stop = visit(like->type.ptr(), arg)) return stop;
        if (const int stop = visit_all(like->key)) return stop;
    }
    for (const py::object* type : {&array_type_, &rows_type_})
        if (const int stop = visit(type->ptr(), arg)) return stop;
    return visit_all(owners_);
}

std::vector<double> norms(const std::vector<py::array>& arrays, double norm_type, const Model::Where& where,
                          Address stream) {
    static constexpr ArrayRef kNoState[kMaxState]{};
    static constexpr double* kNoScalarState[kMaxScalarState]{};
    std::vector<Segment> segments;
    std::vector<Gradient> gradients;
    for (const py::array& array : arrays) {
        Segment segment{};
        segment.state = kNoState;
        segment.scalar_state = kNoScalarState;
        segment.p = make_array_ref(array);
        segment.param = static_cast<std::int32_t>(segments.size());
        gradients.push_back({segment.p.size > 0 ? segment.p.data : nullptr, 1, 0, segment.p.format});
        segments.push_back(segment);
    }
    StepConstants constants = constants_without_options(0);  // of any rule: none is applied
    constants.norm_type = norm_type_of(norm_type);
    const GilRelease unlocked;
    const StepArgs step{segments.data(), gradients.data(), static_cast<std::int64_t>(segments.size()), &constants, 1};
    return make_device(where, segments)->clipped_norms(step, as_pointer(stream)).value();
}

py::tuple square_sums(const py::array& matrices, const std::string& isa) {
    expect(matrices.ndim() == 3 && (matrices.flags() & py::array::c_style), "three axes in C order");
    const ArrayRef array = make_array_ref(matrices);
    const cpu::Matrices at{array, matrices.shape(0), matrices.shape(1), matrices.shape(2)};
    const cpu::AxisLoops& loops = (isa.empty() ? cpu::default_isa() : cpu::named_isa(isa)).loops.axis;
    const cpu::AxisSums sums = [&] {
        const GilRelease unlocked;
        return cpu::square_sums(at, loops);
    }();
    const auto as_array = [](const std::vector<double>& values) {
        return py::array_t<double>(static_cast<py::ssize_t>(values.size()), values.data());
    };
    return py::make_tuple(as_array(sums.rows), as_array(sums.columns));
}

void fill_normal(const py::array& array, std::uint64_t seed, std::uint64_t step, std::uint32_t param,
                 const Model::Where& where, Address stream) {
    const ArrayRef target = make_array_ref(array);
    const RandomKey key{seed, step, param, RandomUse::kNoise};
    const GilRelease unlocked;
    if (const int* gpu = std::get_if<int>(&where))
        cuda::fill_normal(target, key, *gpu, as_pointer(stream));
    else
        cpu::fill_normal(target, key);
}

}  // namespace fo
