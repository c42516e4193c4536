#include "run_probe.h"

#include "../bench/probe.h"
#include "../cpu/device.h"
#include "../cpu/shares.h"
#include "../expect.h"
#include "../pass.h"
#include "gil.h"
#include "model.h"

#include <cstring>

namespace fo {
namespace {

void run_pass(const StepArgs& step, const Pass& pass, const cpu::RuleLoops& loops) {
    const auto begins = cpu::concatenate(pass.end - pass.begin, [&](auto i) { return step.stepped(pass.begin + i); });
    cpu::for_shares(begins, cpu::kMinShare, cpu::kAlign, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
        const std::int64_t at = pass.begin + i;
        const bool is_double = step.segments[at].p.format == Format::kFloat64;
        (is_double ? loops.update_f64 : loops.update_f32)(step.segments[at], step.gradients[at], step.constants[0],
                                                          begin, end);
    });
}

void run_probe(PyObject* model_object, PyObject* grads_object, int rule, std::uint64_t mask,
               const bench::ProbeLoops& loops) {
    auto& model = py::cast<Model&>(py::handle(model_object));
    const auto grads = objects_of(py::reinterpret_borrow<py::list>(grads_object));
    std::vector<Gradient> gradients = model.no_gradients();
    expect(
        grads.size() == model.count() && model.read_gradients(grads, gradients).status == StepResult::Status::kStepped,
        "a gradient for each array");
    std::vector<StepConstants> constants{constants_without_options(rule)};
    std::memcpy(constants[0].rule_f32, &mask, sizeof mask);  // little-endian: its low half is float32's
    std::memcpy(constants[0].rule_f64, &mask, sizeof mask);
    for (Gradient& gradient : gradients) gradient.constants = 0;
    const StepArgs step = model.arguments(gradients, constants);
    const GilRelease unlocked;
    for (const Pass& pass : plan_passes(step, cpu::num_threads() * cpu::kBatchShare)) {
        if (pass.kind == PassKind::kReduceRule) run_pass(step, pass, loops.reduces[rule]);
        if (pass.kind == PassKind::kUpdate) run_pass(step, pass, loops.updates[rule]);
    }
}

}  // namespace

void export_run_probe(py::module_& m) {
    m.attr("_run_probe") = py::capsule(reinterpret_cast<void*>(&run_probe), bench::kRunProbe);
}

}  // namespace fo
