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

void run(const py::object& model, const py::list& grads, int rule, std::uint64_t mask, const std::string& isa) {
    static const auto run_probe = reinterpret_cast<RunProbe>(PyCapsule_Import(kRunProbe, 0));
    if (!run_probe) throw py::error_already_set();
    run_probe(model.ptr(), grads.ptr(), rule, mask, loops_named(isa));
}

PYBIND11_MODULE(_bench, m, py::mod_gil_not_used()) {
    m.doc() = "The bandwidth probe of `python -m fastoptim bench`.";
    m.def("run_probe", &run, py::arg("model"), py::arg("grads"), py::arg("rule"), py::arg("mask"), py::arg("isa"),
          "Read and write what one step of the rule does; a mask of 0 changes nothing.");
}

}  // namespace
}  // namespace fo::bench
