// What the bindings may ask of CUDA.  Seen from here it is plain C++; only the loop's own files see CUDA headers.
#pragma once

#include "../step.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace fo::cuda {

struct Info {
    std::string version;  // empty: built without CUDA
    std::vector<std::string> architectures;
    std::vector<std::string> devices;
};

// Never fails, whatever the machine lacks.
Info info();

// Empty where there is a device to use, else why there is none.
std::string status();

// The device whose memory this address is in; 0 where it is in none's, or in one that all share.
int device_of(const void* address);

// A model's arrays on one device.  Everything happens in the order of the stream given, and nothing waits for it but
// what says so.  Gradients are by segment; `data` is null where there is none.  Errors are std::runtime_error, and
// where nothing can be launched nothing was written.
class Plan {
  public:
    virtual ~Plan() = default;

    // False if a gradient is not finite and the step was to be skipped then; that waits for the stream.  `norm`: that
    // of all gradients, where some are on other devices; then `reduce` must have been called with the same.
    virtual bool step(const std::vector<Gradient>& gradients, const std::vector<StepConstants>& constants, void* stream,
                      std::optional<double> norm) = 0;

    // The squared norm of each gradient as clip_norm leaves it, 0 where there is none; nothing where a gradient is not
    // finite and such steps are skipped.  Waits for the stream.
    virtual std::optional<std::vector<double>> gradient_norms(const std::vector<Gradient>& gradients,
                                                              const std::vector<StepConstants>& constants,
                                                              void* stream) = 0;

    // The sum of each gradient's squares after scaling, 0 where there is none.  Waits for the stream.
    virtual std::vector<double> squared_norms(const std::vector<Gradient>& gradients,
                                              const std::vector<StepConstants>& constants, void* stream) = 0;

    // The passes that a step of these rules is reduced against; see ../cpu/bandwidth_probe.h.
    virtual void run_probe(const std::vector<Gradient>& gradients, const std::vector<StepConstants>& constants,
                           std::uint64_t mask, void* stream) = 0;

    // What the last of these only read, by exclusive or.  Waits for the stream.
    virtual std::uint64_t probe_answer(void* stream) = 0;

    // The numbers that steps captured in a graph use from here on.
    virtual void advance(const std::vector<StepConstants>& constants, void* stream) = 0;
};

// Throws where `status` has something to say.
std::unique_ptr<Plan> make_plan(std::vector<Segment> segments, int device);

}  // namespace fo::cuda
