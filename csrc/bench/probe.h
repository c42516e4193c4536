// The interface between the bandwidth probe, an extension module of its own, and the core, whose model and threads it
// uses.
#pragma once

#include "../cpu/loop.h"

#include <Python.h>
#include <cstdint>
#include <memory>

namespace fo::bench {

// Tables indexed by rule.  The entries of `reduces` are null where a rule reduces nothing.
struct ProbeLoops {
    const cpu::RuleLoops* updates;
    const cpu::RuleLoops* reduces;
};

// A probe over the arrays of a model, made by the core.
class Probe {
  public:
    virtual ~Probe() = default;

    // Run the passes of one step by these loops, in the shares and batches of a step.
    virtual void run(std::uint64_t mask) = 0;
};

// The core exports this function in a capsule of this name.  The model and the gradients must outlive the probe.
using MakeProbe = std::unique_ptr<Probe> (*)(PyObject* model, PyObject* grads, int rule, const ProbeLoops& loops);
inline constexpr const char* kMakeProbe = "fastoptim._core._make_probe";

}  // namespace fo::bench
