#include "model_probe.h"

#include "../bench/probe.h"
#include "../cpu/isa.h"
#include "../cpu/shares.h"
#include "../expect.h"
#include "gil.h"
#include "model.h"

#include <cstring>

namespace fo {
namespace {

// Reads and writes what one step of a rule does, by loops of the module _bench, in the shares and batches of a step.
class BandwidthProbe {
  public:
    BandwidthProbe(std::shared_ptr<const Model> model, const py::list& grads, int rule, const py::capsule& loops)
        : model_(std::move(model)),
          grads_(objects_of(grads)),
          loops_(*loops.get_pointer<const bench::ProbeLoops>()),
          rule_(rule),
          gradients_(model_->no_gradients()),
          constants_{constants_without_options(rule)} {
        expect(grads_.size() == model_->count() &&
                   model_->read_gradients(grads_, gradients_).status == StepResult::Status::kStepped,
               "a gradient for each array");
        for (Gradient& gradient : gradients_.each) gradient.constants = 0;
    }

    // A mask of 0 changes nothing.
    void run(std::uint64_t mask) {
        std::memcpy(constants_[0].rule_f32, &mask, sizeof mask);  // little-endian: its low half is float32's
        std::memcpy(constants_[0].rule_f64, &mask, sizeof mask);
        const StepArgs step = model_->arguments(gradients_, constants_);
        std::vector<std::int64_t> begins;
        const GilRelease unlocked;
        const auto run = [&](const Pass& pass, const cpu::RuleLoops& loops) {
            cpu::update_shares(
                step, pass, [&](std::int64_t) -> const cpu::RuleLoops& { return loops; }, {},
                cpu::default_isa().loops.storage, begins);
        };
        for (const Pass& pass : plan_passes(step, &cpu::batch_elements)) {
            if (pass.kind == PassKind::kReduceRule || pass.kind == PassKind::kReduceRows)
                run(pass, loops_.reduces[rule_]);
            if (pass.kind == PassKind::kUpdate) run(pass, loops_.updates[rule_]);
        }
    }

  private:
    const std::shared_ptr<const Model> model_;
    const std::vector<py::object> grads_;
    const bench::ProbeLoops loops_;
    const int rule_;
    Gradients gradients_;
    std::vector<StepConstants> constants_;
};

}  // namespace

void export_bandwidth_probe(py::module_& m) {
    py::class_<BandwidthProbe>(m, "BandwidthProbe")
        .def(py::init<std::shared_ptr<const Model>, const py::list&, int, const py::capsule&>(), py::arg("model"),
             py::arg("grads"), py::arg("rule"), py::arg("loops"))
        .def("__call__", &BandwidthProbe::run, py::arg("mask"));
}

}  // namespace fo
