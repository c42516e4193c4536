// The module fastoptim._bench: the loops of the bandwidth probe for each instruction set.
#include "../cpu/vectorize.h"
#include "probe.h"

#include <pybind11/pybind11.h>

namespace fo::bench {

#define FO_PROBE(ISA) const ProbeLoops* FO_JOIN(probe_loops_, ISA)();
#include "probes.inc"
#undef FO_PROBE

namespace {

PYBIND11_MODULE(_bench, m) {
    m.doc() = "The loops of the bandwidth probe, by instruction set.";
    pybind11::dict loops;
#define FO_PROBE(ISA) loops[#ISA] = pybind11::capsule(FO_JOIN(probe_loops_, ISA)());
#include "probes.inc"
#undef FO_PROBE
    m.attr("LOOPS") = loops;
}

}  // namespace
}  // namespace fo::bench
