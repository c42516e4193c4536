// The module fastoptim._bench: the bandwidth probe of the CPU.
#include "../cpu/vectorize.h"
#include "probe.h"

#include <pybind11/pybind11.h>
#include <cstring>
#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace fo::bench {

#define FO_PROBE(ISA) ProbeLoops FO_JOIN(probe_loops_, ISA)();
#include "probes.inc"
#undef FO_PROBE

namespace {

ProbeLoops loops_named(const std::string& isa) {
#define FO_PROBE(ISA) \
    if (isa == #ISA) return FO_JOIN(probe_loops_, ISA)();
#include "probes.inc"
#undef FO_PROBE
    throw std::invalid_argument("isa: expected a compiled instruction set, got '" + isa + "'");
}

class BandwidthProbe {
  public:
    BandwidthProbe(py::object model, py::list grads, int rule, const std::string& isa)
        : model_(std::move(model)), grads_(std::move(grads)) {
        const auto make = reinterpret_cast<MakeProbe>(PyCapsule_Import(kMakeProbe, 0));
        if (!make) throw py::error_already_set();
        probe_ = make(model_.ptr(), grads_.ptr(), rule, loops_named(isa));
    }

    void run(std::uint64_t mask) { probe_->run(mask); }

  private:
    const py::object model_;
    const py::list grads_;
    std::unique_ptr<Probe> probe_;
};

PYBIND11_MODULE(_bench, m, py::mod_gil_not_used()) {
    m.doc() = "The bandwidth probe of `python -m fastoptim bench`.";
    py::class_<BandwidthProbe>(m, "BandwidthProbe",
                               "Read and write what one step of a rule does; a mask of 0 changes nothing.")
        .def(py::init<py::object, py::list, int, const std::string&>(), py::arg("model"), py::arg("grads"),
             py::arg("rule"), py::arg("isa"))
        .def("__call__", &BandwidthProbe::run, py::arg("mask"));
}

}  // namespace
}  // namespace fo::bench
