// A model's arrays, gathered once, and the step over them.
#pragma once

#include "buffer.h"
#include "cpu/isa.h"

#include <pybind11/stl.h>
#include <atomic>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

namespace fo {

struct ComputeTypes {
    bool f32 = false, f64 = false;
};

// What the loops need of an optimizer's options, but for what changes with the step.
struct UpdateConfig {
    int rule;
    std::vector<double> values;  // in the rule's order; those that are each step's own are filled in by `at`
    int lr_at;
    std::vector<int> host_constants_at;
    bool maximize, skip_nonfinite;
    double clip_value, clip_norm, clip_global_norm;
    double l1, weight_decay;
    bool decoupled;
    std::optional<double> ema;
    std::optional<std::int64_t> swa_start;
    std::int64_t swa_every;

    // This step's numbers, for the compute types that are there: a rule's powers cost more than a small array's step.
    StepConstants constants_for_step(double lr, std::int64_t t, double grad_scale,
                                     const std::vector<double>& host_constants,
                                     ComputeTypes types = {true, true}) const;

  private:
    double average_keep(std::int64_t t) const;
};

// No numbers of a step, and nothing to prepare.
StepConstants bare(int rule);

// (hyper-parameters, learning rate, step number, loss scale, step constants)
using GroupStep = std::tuple<const UpdateConfig*, double, std::int64_t, double, std::vector<double>>;

// An array's state: the rule's arrays, its numbers, and the average or nothing.
using State = std::tuple<std::vector<py::array>, std::vector<py::array>, std::vector<py::array>>;

class Plan {
  public:
    static constexpr std::int64_t kChanged = -1;
    static constexpr std::int64_t kSkipped = -2;
    static constexpr std::int64_t kFirstOdd = -3;

    // The arrays were checked by arrays.py: dense, writeable, disjoint, the state like its parameter.
    Plan(std::vector<py::array> params, std::vector<State> states, std::vector<int> groups, const std::string& isa);

    // Steps the arrays whose gradient is not None, the i-th by group_steps[step_of[i]], else by its group's.
    // Returns how many it stepped; or, with nothing written, kChanged where a parameter is no longer what it was,
    // kSkipped where a gradient is not finite and such steps are skipped, and kFirstOdd - i where the i-th gradient
    // needs a second look.
    std::int64_t step(const py::list& grads, const std::optional<std::vector<int>>& step_of,
                      const std::vector<GroupStep>& group_steps) const;

    // The same with the group_steps' numbers, the i-th array's at constants[which[i]].
    std::int64_t step(const py::list& grads, const std::vector<int>& which,
                      std::vector<StepConstants>& constants) const;

    // The two halves of a step.  `take` reads the gradients and returns how many there are, or as `step` what is amiss;
    // `run` takes the step, each array by the constants that its gradient names, and returns whether it was not
    // skipped.
    std::int64_t take(const std::vector<py::object>& grads, std::vector<Gradient>& gradients) const;
    bool run(std::vector<Gradient>& gradients, std::vector<StepConstants>& constants) const;

    // Throws where a group's arrays lack state that these need, the i-th for the i-th group.
    void expect_groups(const std::vector<StepConstants>& constants) const;

    // One an array, which name its group's constants.
    std::vector<Gradient> no_gradients() const;

    std::size_t count() const { return segments_.size(); }
    const std::vector<int>& groups() const { return groups_; }  // of each array
    ComputeTypes types() const { return types_; }               // among the arrays

  private:
    bool unchanged(std::size_t i) const;
    bool accept(std::size_t i, py::handle grad, Gradient& gradient) const;
    bool overlaps_own(Interval grad) const;
    void expect_state(std::size_t i, const StepConstants& constants) const;

    std::vector<py::array> params_;
    std::vector<State> states_;
    std::vector<int> groups_;
    std::vector<Segment> segments_;
    std::vector<Layout> layouts_;
    std::vector<Identity> identities_;
    std::vector<Interval> own_;  // every byte of parameters and state, ascending
    ComputeTypes types_;
    const cpu::Loops& loops_;

    // The last gradient found clear of own_, by address and format: most callers pass the same buffers again.
    mutable std::unique_ptr<std::atomic<std::uintptr_t>[]> clear_;
};

// The sum of the squares of each array, dense and of a known format; as a step sums its gradients.
std::vector<double> squared_norms(const std::vector<py::array>& arrays);

}  // namespace fo
