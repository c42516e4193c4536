// A plan for arrays on a CUDA device, as Python has it: addresses, checked by the caller.
#pragma once

#include "cuda/cuda.h"
#include "plan.h"

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

namespace fo {

class CudaPlan {
  public:
    using Address = std::uintptr_t;
    using Parameter = std::tuple<Address, std::int64_t, std::string>;  // first element, size, format
    using Addresses = std::vector<Address>;
    using ItsState = std::tuple<Addresses, Addresses, Addresses>;  // arrays, numbers, the average or nothing

    // By array; None, and 0 for an array that is not empty, are no gradient.
    using Gradients = std::vector<std::optional<Address>>;
    using Formats = std::variant<std::string, std::vector<std::string>>;
    using StepOf = std::optional<std::vector<int>>;

    static constexpr std::int64_t kSkipped = Plan::kSkipped;

    CudaPlan(const std::vector<Parameter>& params, const std::vector<ItsState>& states, std::vector<int> groups,
             int device);

    // As Plan::step; returns how many were stepped, or kSkipped.  `whole_norm`: see cuda::Plan::step.
    std::int64_t step(const Gradients& grads, const Formats& formats, const StepOf& step_of,
                      const std::vector<GroupStep>& group_steps, Address stream, std::optional<double> whole_norm);

    // The squared norm of each gradient as its own bounds leave it, 0 where there is none; None where the step is to be
    // skipped.
    std::optional<std::vector<double>> gradient_norms(const Gradients& grads, const Formats& formats,
                                                      const StepOf& step_of, const std::vector<GroupStep>& group_steps,
                                                      Address stream);

    // The numbers of the next step for graphs that captured one.
    void advance(const StepOf& step_of, const std::vector<GroupStep>& group_steps, Address stream);

  protected:
    std::vector<Gradient> gradients_of(const Gradients& grads, const Formats& formats, const StepOf& step_of,
                                       const std::vector<StepConstants>& constants) const;
    void expect_state(std::size_t i, const StepConstants& constants) const;

    std::vector<int> groups_;
    std::vector<Segment> segments_;
    std::vector<std::pair<std::size_t, std::size_t>> state_counts_;
    std::unique_ptr<cuda::Plan> plan_;
};

// The pass that a step is reduced against, over a model's own arrays; see cpu/bandwidth_probe.h.
class CudaBandwidthProbe : CudaPlan {
  public:
    using CudaPlan::Address;

    CudaBandwidthProbe(int rule, const std::vector<Parameter>& params, const std::vector<ItsState>& states,
                       const Gradients& grads, const Formats& formats, int device);

    // As BandwidthProbe::run, but nothing waits for it; `answer` does, and has what was only read.
    void run(std::uint64_t mask, Address stream);
    std::uint64_t answer(Address stream);

  private:
    std::vector<StepConstants> constants_;
    std::vector<Gradient> gradients_;
};

// The sum of the squares of each array, as a step sums its gradients.  Waits for the stream.
std::vector<double> cuda_squared_norms(const std::vector<CudaPlan::Parameter>& arrays, int device,
                                       CudaPlan::Address stream);

}  // namespace fo
