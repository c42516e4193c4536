// A device executes the passes of a step over a model's segments: the CPU (cpu/device.cpp) or a GPU (cuda/).
#pragma once

#include "step.h"

#include <optional>
#include <vector>

namespace fo {

class Device {
  public:
    virtual ~Device() = default;

    // Return false if a gradient is not finite and the step skips such gradients; then nothing was written.  `stream`
    // is a CUDA stream, else null.  `global_norm` is the norm of all gradients where some are on other devices; then
    // clipped_norms was called before with the same step.
    virtual bool step(const StepArgs& step, void* stream, std::optional<double> global_norm) = 0;

    // Return the norm of each parameter's gradient after clip_norm, 0 where there is none; nothing where a gradient is
    // not finite and the step skips such gradients.  Waits for the stream.
    virtual std::optional<std::vector<double>> clipped_norms(const StepArgs& step, void* stream) = 0;

    // Set the constants that steps captured in a CUDA graph use from here on.
    virtual void advance(const std::vector<StepConstants>& constants, void* stream) = 0;
};

}  // namespace fo
