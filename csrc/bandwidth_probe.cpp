#include "bandwidth_probe.h"

#include "gil.h"
#include "rule_info.h"

#include <stdexcept>

namespace fo {
namespace {

const cpu::ProbePasses& passes_of(int rule, const std::string& isa) {
    if (rule < 0 || static_cast<std::size_t>(rule) >= rules().size()) throw std::invalid_argument("expected a rule");
    return (isa.empty() ? cpu::default_isa() : cpu::named_isa(isa)).probes[rule];
}

void expect(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

}  // namespace

BandwidthProbe::BandwidthProbe(int rule, std::vector<py::array> params, std::vector<py::array> grads,
                               std::vector<std::vector<py::array>> states, std::vector<std::vector<py::array>> averages,
                               const std::string& isa)
    : passes_(passes_of(rule, isa)), reduces_group_(rules()[static_cast<std::size_t>(rule)].reduces_group) {
    const std::size_t state_count = rules()[static_cast<std::size_t>(rule)].state.size();
    expect(grads.size() == params.size() && states.size() == params.size() && averages.size() == params.size(),
           "expected one gradient, one state and one average an array");
    for (std::size_t i = 0; i < params.size(); ++i) {
        const auto own = [&](py::array& array, std::optional<Format> format) {
            expect(array.size() == params[i].size() && format_of(array) == format,
                   "expected arrays of the parameter's size and their format");
            kept_.push_back(array);
            return array.mutable_data();
        };
        Segment segment{};
        Gradient gradient{};
        const auto format = format_of(params[i]), gradient_format = format_of(grads[i]);
        expect(format && gradient_format, "expected arrays of a known dtype");
        segment.size = params[i].size();
        segment.format = *format;
        segment.p = own(params[i], format);
        gradient.format = *gradient_format;
        gradient.data = grads[i].data();
        expect(grads[i].size() == segment.size, "expected a gradient of the parameter's size");
        kept_.push_back(grads[i]);
        const auto compute = *format == Format::kFloat64 ? Format::kFloat64 : Format::kFloat32;
        expect(states[i].size() == state_count && averages[i].size() <= 1, "expected the rule's state arrays");
        for (std::size_t k = 0; k < state_count; ++k) segment.state[k] = own(states[i][k], compute);
        if (!averages[i].empty()) segment.average = own(averages[i][0], compute);
        segments_.push_back(segment);
        gradients_.push_back(gradient);
    }
}

std::uint64_t BandwidthProbe::run(std::uint64_t mask) {
    const GilRelease unlocked;
    return cpu::run_probe(passes_, reduces_group_, segments_.data(), gradients_.data(),
                          static_cast<std::int64_t>(segments_.size()), mask);
}

}  // namespace fo
