// The interface between the bandwidth probe, an extension module of its own, and the core, whose model and threads it
// uses.
#pragma once

#include "../cpu/loop.h"

#include <Python.h>
#include <cstdint>

namespace fo::bench {

// Tables indexed by rule.  The entries of `reduces` are null where a rule reduces nothing.
struct ProbeLoops {
    const cpu::RuleLoops* updates;
    const cpu::RuleLoops* reduces;
};

// The core exports this function in a capsule of this name.  It runs the passes of one step of `rule` over a model and
// its gradients by these loops, in the shares and batches of a step.
using RunProbe = void (*)(PyObject* model, PyObject* grads, int rule, std::uint64_t mask, const ProbeLoops& loops);
inline constexpr const char* kRunProbe = "fastoptim._core._run_probe";

}  // namespace fo::bench
