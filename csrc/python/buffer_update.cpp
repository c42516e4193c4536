#include "buffer_update.h"

#include "../cpu/device.h"
#include "../cpu/isa.h"
#include "../device.h"
#include "../expect.h"
#include "../float_environment.h"
#include "../rule_info.h"
#include "array.h"
#include "gil.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace fo {
namespace {

constexpr std::size_t kMaxArguments = kMaxState + kMaxScalarState + 1;

// ---- options

// Compare strings without Python code; keyword names are usually the same object.
bool is_same_text(py::handle a, py::handle b) { return a.is(b) || PyUnicode_Compare(a.ptr(), b.ptr()) == 0; }

bool is_name(py::handle key, const char* name) { return PyUnicode_CompareWithASCIIString(key.ptr(), name) == 0; }

// Whether it is Python's float or NumPy's float64.  Another subclass may be a callable, or convert in its own way.
bool is_float(py::handle value) {
    static const py::handle float64 = py::object(py::module_::import("numpy").attr("float64")).release();
    return PyFloat_CheckExact(value.ptr()) || py::type::handle_of(value).is(float64);
}

// Whether a value that was passed equals one that Python has checked, in type and in every bit.  Values of other types
// than options have are never equal.
bool is_same(py::handle given, py::handle checked) {
    PyObject *const a = given.ptr(), *const b = checked.ptr();
    if (is_float(a) && is_float(b)) {
        const double x = PyFloat_AS_DOUBLE(a), y = PyFloat_AS_DOUBLE(b);
        return std::memcmp(&x, &y, sizeof x) == 0;
    }
    if (a == b) return true;
    if (PyLong_CheckExact(a) && PyLong_CheckExact(b)) return PyObject_RichCompareBool(a, b, Py_EQ) == 1;
    if (PyUnicode_CheckExact(a) && PyUnicode_CheckExact(b)) return is_same_text(a, b);
    if (!PyTuple_CheckExact(a) || !PyTuple_CheckExact(b) || PyTuple_GET_SIZE(a) != PyTuple_GET_SIZE(b)) return false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(a); ++i)
        if (!is_same(PyTuple_GET_ITEM(a, i), PyTuple_GET_ITEM(b, i))) return false;
    return true;
}

// Return a float or an int as a number; NaN for anything else, which no range contains.
double number_of(py::handle value) {
    if (is_float(value)) return PyFloat_AS_DOUBLE(value.ptr());
    if (!PyLong_CheckExact(value.ptr())) return NAN;
    const double number = PyLong_AsDouble(value.ptr());
    if (number != -1 || !PyErr_Occurred()) return number;
    PyErr_Clear();  // too large
    return NAN;
}

double scale_of(py::handle value) {
    if (!is_plain_array(value) || raw(value).nd != 0 || format_of(value) != Format::kFloat64) return number_of(value);
    double scale;
    std::memcpy(&scale, raw(value).data, sizeof scale);
    return scale;
}

// The numbers of an option: a float, or the items of a tuple of floats.
struct Numbers {
    PyObject* value;
    std::size_t count;

    explicit Numbers(py::handle given)
        : value(given.ptr()),
          count(PyTuple_CheckExact(value) ? static_cast<std::size_t>(PyTuple_GET_SIZE(value)) : 1) {}

    double operator[](std::size_t i) const {
        return number_of(PyTuple_CheckExact(value) ? PyTuple_GET_ITEM(value, static_cast<Py_ssize_t>(i)) : value);
    }
};

// Whether this is as many numbers in the range as the option has, in a tuple or not as in an earlier call.
bool can_read(py::handle value, py::handle earlier, const OptionSet::Readable& readable) {
    const Numbers numbers(value);
    if (readable.places.empty() || numbers.count != readable.places.size()) return false;
    if (PyTuple_CheckExact(value.ptr()) != PyTuple_CheckExact(earlier.ptr())) return false;
    for (std::size_t i = 0; i < numbers.count; ++i)
        if (!(numbers[i] >= readable.low && numbers[i] <= readable.high)) return false;
    return true;
}

bool is_free(py::handle name) { return is_name(name, "lr") || is_name(name, "grad_scale"); }

}  // namespace

OptionSet::OptionSet(std::shared_ptr<const UpdateConfig> config, const py::dict& given,
                     const std::map<std::string, std::tuple<std::vector<int>, double, double>>& readable, double lr,
                     double grad_scale, std::string when_nonfinite, py::object host_constants,
                     std::shared_ptr<const StateArguments> states)
    : config_(std::move(config)),
      lr_(lr),
      grad_scale_(grad_scale),
      when_nonfinite_(std::move(when_nonfinite)),
      host_constants_(std::move(host_constants)),
      states_(std::move(states)) {
    expect(config_ != nullptr, "options");
    for (const auto& [name, value] : given) {
        Given& entry = given_.emplace_back(
            Given{py::reinterpret_borrow<py::object>(name), py::reinterpret_borrow<py::object>(value), {{}, 0, 0}});
        const auto known = readable.find(py::cast<std::string>(name));
        if (known == readable.end()) continue;
        std::tie(entry.readable.places, entry.readable.low, entry.readable.high) = known->second;
        for (const int place : entry.readable.places)
            expect(place == kWeightDecay || (place >= 0 && static_cast<std::size_t>(place) < config_->values.size()),
                   "hyper-parameters of the rule");
    }
    expect(
        states_ && states_->rule() == config_->rule && (states_->averages() || (!config_->ema && !config_->swa_start)),
        "the state arrays of these options");
}

const OptionSet::Given* OptionSet::find(py::handle name, std::size_t place) const {
    const auto is_it = [name](const Given& entry) { return is_same_text(name, entry.name); };
    if (place < given_.size() && is_it(given_[place])) return &given_[place];
    const auto entry = std::find_if(given_.begin(), given_.end(), is_it);
    return entry == given_.end() ? nullptr : &*entry;
}

bool OptionSet::matches(const py::dict& options) const {
    const DefaultFloatEnvironment environment;  // in the caller's, a subnormal bound may be a zero
    std::size_t found = 0;
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(options.ptr(), &at, &key, &value);) {
        if (is_free(key)) continue;
        const Given* const entry = find(key, found);
        if (!entry || !(is_same(value, entry->value) || can_read(value, entry->value, entry->readable))) return false;
        ++found;
    }
    return found == given_.size();
}

std::optional<StepConstants> OptionSet::constants(py::handle step, const py::dict& options, ComputeTypes types) const {
    int overflow = 0;
    const std::int64_t t = PyLong_CheckExact(step.ptr()) ? PyLong_AsLongLongAndOverflow(step.ptr(), &overflow) : 0;
    if (t < 1 || overflow) return std::nullopt;
    double lr = lr_, grad_scale = grad_scale_;
    std::optional<UpdateConfig> changed;  // with the numbers of this call
    std::size_t found = 0;
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(options.ptr(), &at, &key, &value);) {
        if (is_name(key, "lr")) lr = number_of(value);
        if (is_name(key, "grad_scale")) grad_scale = scale_of(value);
        if (is_free(key)) continue;
        const Given* const entry = find(key, found++);
        if (is_same(value, entry->value)) continue;
        if (!changed) changed = *config_;
        const Numbers numbers(value);
        for (std::size_t i = 0; i < numbers.count; ++i) {
            const int place = entry->readable.places[i];
            (place == kWeightDecay ? changed->weight_decay : changed->values[static_cast<std::size_t>(place)]) =
                numbers[i];
        }
    }
    if (!(lr >= 0 && lr < INFINITY && grad_scale >= 0x1p-126 && grad_scale <= 0x1p126)) return std::nullopt;
    std::vector<double> host_constants;
    if (!host_constants_.is_none()) {
        const py::dict computed = host_constants_(t, lr);
        for (const auto& [name, number] : computed) host_constants.push_back(py::cast<double>(number));
    }
    return (changed ? *changed : *config_).constants_for_step(lr, t, grad_scale, host_constants, types);
}

// ---- state arguments

StateArguments::StateArguments(int rule, const std::vector<std::vector<Names>>& alternatives) : rule_(rule) {
    expect(rule >= 0 && static_cast<std::size_t>(rule) < rules().size(), "a rule");
    const RuleInfo& info = rule_info(rule);
    const std::array counts{element_states(info), info.state.size(), info.scalar_state.size(), std::size_t{1}};
    constexpr std::array roles{"state", "rows", "scalar", "average"};
    for (const auto& names : alternatives) {
        expect(names.size() <= kMaxArguments, "fewer state arrays");
        std::vector<Argument>& arguments = alternatives_.emplace_back();
        std::array<std::size_t, roles.size()> used{};
        for (const auto& [role, index, format] : names) {
            const auto at = static_cast<std::size_t>(std::find(roles.begin(), roles.end(), role) - roles.begin());
            expect(at < roles.size() && index < static_cast<int>(counts[at]), "a state array of the rule");
            used[at] += index >= 0;
            const auto* const known = std::find(kFormatNames.begin(), kFormatNames.end(), format);
            expect(known != kFormatNames.end() || format == "compute", "a storage format");
            std::optional<Format> stored;
            if (known != kFormatNames.end()) stored = static_cast<Format>(known - kFormatNames.begin());
            arguments.push_back({static_cast<Role>(at), index, stored});
        }
        averages_ = used[3] == 1;
        expect(used[0] == counts[0] && used[0] + used[1] == counts[1] && used[2] == counts[2],
               "every state array of the rule");
    }
}

const std::vector<StateArguments::Argument>* StateArguments::of(std::size_t count) const {
    for (const auto& each : alternatives_)
        if (each.size() == count) return &each;
    return nullptr;
}

// ---- arrays

namespace {

constexpr int kContiguous = py::array::c_style | py::array::f_style;

// A parameter, its state and its gradient, read from Python's objects and checked.
class Buffers {
  public:
    // Return whether all are ordinary arrays of the CPU that one step can use together.
    bool read(py::handle p, py::handle g, const py::tuple& state,
              const std::vector<StateArguments::Argument>& arguments) {
        if (!is_plain_array(p) || !(raw(p).flags & kContiguous)) return false;
        p_ = p;
        size_ = 1;
        for (int axis = 0; axis < raw(p).nd; ++axis) size_ *= raw(p).dimensions[axis];
        const std::int64_t rows = raw(p).nd > 0 ? raw(p).dimensions[0] : 1,
                           row_size = size_ / std::max<std::int64_t>(rows, 1);
        segment_.rows = {rows, row_size, row_size, nullptr};
        const auto format = format_of(p);
        if (!format || !write(p, *format, segment_.p)) return false;
        const Format computes = compute_format(*format);
        segment_.average = {nullptr, 0, computes};
        for (std::size_t i = 0; i < arguments.size(); ++i) {
            const auto& [role, index, stored] = arguments[i];
            const py::handle array = PyTuple_GET_ITEM(state.ptr(), static_cast<Py_ssize_t>(i));
            ArrayRef ref{};
            if (!write_as(role, array, stored.value_or(computes), ref)) return false;
            if (index < 0) continue;
            switch (role) {
                case StateArguments::Role::kState:
                case StateArguments::Role::kRows: state_[static_cast<std::size_t>(index)] = ref; break;
                case StateArguments::Role::kScalar:
                    scalar_state_[static_cast<std::size_t>(index)] = static_cast<double*>(ref.data);
                    break;
                case StateArguments::Role::kAverage: segment_.average = ref; break;
            }
        }
        segment_.state = state_.data();
        segment_.scalar_state = scalar_state_.data();
        return read_gradient(g);
    }

    // Return false if the step was skipped.
    bool step(StepConstants& constants) {
        static const auto device = cpu::make_device(cpu::default_isa().loops);  // without state that a step changes
        const GilRelease unlocked;
        return device->step({&segment_, &gradient_, 1, &constants, 1}, nullptr, {});
    }

  private:
    bool has_layout(py::handle array) const {
        const auto &own = raw(p_), &other = raw(array);
        return other.nd == own.nd && std::equal(own.dimensions, own.dimensions + own.nd, other.dimensions) &&
               (own.flags & other.flags & kContiguous);
    }

    bool write_as(StateArguments::Role role, py::handle array, Format format, ArrayRef& ref) {
        switch (role) {
            case StateArguments::Role::kScalar: return write_number(array, ref);
            case StateArguments::Role::kRows: return write_rows(array, format, ref);
            default: return write(array, format, ref);
        }
    }

    // Describe an array with a number for each row of a parameter in C order.
    bool write_rows(py::handle array, Format format, ArrayRef& ref) {
        const auto& p = raw(p_);
        if (!is_plain_array(array) || raw(array).nd != 1 || !(p.flags & raw(array).flags & py::array::c_style))
            return false;
        if (raw(array).dimensions[0] != (p.nd == 0 ? 1 : p.dimensions[0])) return false;
        ref = {raw(array).data, raw(array).dimensions[0], format};
        return add_written(array, ref);
    }

    // Describe an array that is written: of the format, in the parameter's layout, apart from the others.
    bool write(py::handle array, Format format, ArrayRef& ref) {
        if (!is_plain_array(array) || !has_layout(array)) return false;
        ref = {raw(array).data, size_, format};
        return add_written(array, ref);
    }

    bool write_number(py::handle array, ArrayRef& ref) {
        if (!is_plain_array(array) || raw(array).nd != 0) return false;
        ref = {raw(array).data, 1, Format::kFloat64};
        return add_written(array, ref);
    }

    bool add_written(py::handle array, const ArrayRef& ref) {
        if (format_of(array) != ref.format) return false;
        if (!(raw(array).flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_)) return false;
        const Interval own = interval_of(ref.data, ref.size, ref.format);
        if (overlaps_written(own)) return false;
        written_[written_count_++] = own;
        return true;
    }

    bool overlaps_written(Interval own) const {
        return std::any_of(written_.begin(), written_.begin() + written_count_,
                           [own](Interval other) { return own.begin < other.end && other.begin < own.end; });
    }

    bool read_gradient(py::handle g) {
        if (!is_plain_array(g)) return false;
        const auto format = format_of(g);
        if (!format) return false;
        if (!has_layout(g)) return read_strided_gradient(g, *format);
        if (overlaps_written(interval_of(raw(g).data, size_, *format))) return false;
        const void* const anywhere = &segment_;  // an address that is not null; of an empty array nothing is read
        gradient_ = {.data = size_ > 0 ? raw(g).data : anywhere, .clip = 1, .constants = 0, .format = *format};
        return true;
    }

    bool read_strided_gradient(py::handle g, Format format) {
        axes_ = Layout(py::reinterpret_borrow<py::array>(p_)).axes_of(g);
        if (!axes_ || overlaps_written(interval_of(raw(g).data, *axes_, format))) return false;
        gradient_ = {.data = raw(g).data, .clip = 1, .constants = 0, .format = format, .axes = &*axes_};
        return true;
    }

    py::handle p_;
    std::int64_t size_ = 0;
    std::optional<Axes> axes_;  // of the gradient, if it lies otherwise than the parameter
    Segment segment_{};
    Gradient gradient_{};
    std::array<ArrayRef, kMaxState> state_{};
    std::array<double*, kMaxScalarState> scalar_state_{};
    std::array<Interval, kMaxArguments + 1> written_{};
    std::ptrdiff_t written_count_ = 0;
};

ComputeTypes types_for(py::handle p) {
    const bool f64 = is_plain_array(p) && format_of(p) == Format::kFloat64;
    return {!f64, f64};
}

}  // namespace

py::object try_update(const py::tuple& option_sets, py::handle p, py::handle g, const py::tuple& state, py::handle step,
                      const py::dict& options) {
    for (const py::handle each : option_sets) {
        const auto& set = py::cast<const OptionSet&>(each);
        if (!set.matches(options)) continue;
        const auto* const arguments = set.states().of(state.size());
        std::optional<StepConstants> constants = set.constants(step, options, types_for(p));  // may run Python code
        Buffers buffers;
        if (!arguments || !constants || !buffers.read(p, g, state, *arguments)) return py::ellipsis();
        const bool taken = buffers.step(*constants);
        if (set.when_nonfinite().empty()) return py::none();
        if (set.when_nonfinite() == "skip") return py::bool_(taken);
        return taken ? py::object(py::none()) : py::ellipsis();
    }
    return py::reinterpret_borrow<py::object>(Py_NotImplemented);
}

}  // namespace fo
