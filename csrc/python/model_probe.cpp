#include "model_probe.h"

#include "../bench/probe.h"
#include "../cpu/shares.h"
#include "../expect.h"
#include "gil.h"
#include "model.h"

#include <cstring>

namespace fo {
namespace {

class ModelProbe final : public bench::Probe {
  public:
    ModelProbe(Model& model, const std::vector<py::object>& grads, int rule, const bench::ProbeLoops& loops)
        : model_(model), rule_(rule), loops_(loops), gradients_(model.no_gradients()) {
        expect(grads.size() == model.count() &&
                   model.read_gradients(grads, gradients_).status == StepResult::Status::kStepped,
               "a gradient for each array");
        for (Gradient& gradient : gradients_) gradient.constants = 0;
    }

    void run(std::uint64_t mask) override {
        std::memcpy(constants_[0].rule_f32, &mask, sizeof mask);  // little-endian: its low half is float32's
        std::memcpy(constants_[0].rule_f64, &mask, sizeof mask);
        const StepArgs step = model_.arguments(gradients_, constants_);
        const GilRelease unlocked;
        const auto run = [&](const Pass& pass, const cpu::RuleLoops& loops) {
            cpu::update_shares(step, pass, [&](std::int64_t) -> const cpu::RuleLoops& { return loops; });
        };
        for (const Pass& pass : plan_passes(step, &cpu::batch_elements)) {
            if (pass.kind == PassKind::kReduceRule) run(pass, loops_.reduces[rule_]);
            if (pass.kind == PassKind::kUpdate) run(pass, loops_.updates[rule_]);
        }
    }

  private:
    const Model& model_;
    const int rule_;
    const bench::ProbeLoops loops_;
    std::vector<Gradient> gradients_;
    std::vector<StepConstants> constants_{constants_without_options(rule_)};
};

std::unique_ptr<bench::Probe> make_probe(PyObject* model, PyObject* grads, int rule, const bench::ProbeLoops& loops) {
    return std::make_unique<ModelProbe>(py::cast<Model&>(py::handle(model)),
                                        objects_of(py::reinterpret_borrow<py::list>(grads)), rule, loops);
}

}  // namespace

void export_make_probe(py::module_& m) {
    m.attr("_make_probe") = py::capsule(reinterpret_cast<void*>(&make_probe), bench::kMakeProbe);
}

}  // namespace fo
