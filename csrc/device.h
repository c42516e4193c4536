// A device executes the passes of a step over a model's segments: the CPU (cpu/device.cpp) or a GPU (cuda/).
#pragma once

#include "step.h"

#include <optional>
#include <vector>

namespace fo {

// What a step takes over from parameters that other devices or processes step.
struct Elsewhere {
    std::optional<double> global_norm;  // of all gradients; clipped_norms was called before with the same step
    const double* sums = nullptr;       // over all parameters; rule_sums was called before with the same step
};

class Device {
  public:
    virtual ~Device() = default;

    // Return false if a gradient is not finite and the step skips such gradients; then nothing was written.  `stream`
    // is a CUDA stream, else null.
    virtual bool step(const StepArgs& step, void* stream, const Elsewhere& elsewhere) = 0;

    // Return the norm of each parameter's gradient after clip_norm, 0 where there is none; nothing where a gradient is
    // not finite and the step skips such gradients.  Waits for the stream.
    virtual std::optional<std::vector<double>> clipped_norms(const StepArgs& step, void* stream) = 0;

    // Return the sums over each parameter of a rule that reduces all of them, one parameter after another.  Updates
    // the state that the reduction writes, and `step` then does not.
    virtual std::vector<double> rule_sums(const StepArgs& step, void* stream, const Elsewhere& elsewhere) = 0;

    // Set the constants that steps captured in a CUDA graph use from here on.
    virtual void advance(const std::vector<StepConstants>& constants, void* stream) = 0;
};

}  // namespace fo
