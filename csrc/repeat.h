// Steps like the one before: the optimizer's structure and options are compared with what they were, and where the
// step has no numbers of its own it is taken in the same crossing.  Whatever differs is left to Python, which finds out
// what it is.
#pragma once

#include "plan.h"

#include <memory>
#include <vector>

namespace fo {

// The parameters' nesting of exact dicts, lists and tuples; a leaf is an array.
class Nesting {
  public:
    // None for a leaf; a tuple of nestings for a list or tuple; a dict of them for a dict.
    explicit Nesting(const py::object& description);

    // Adds what stands in the leaves' places; false where `tree` is of another structure.
    bool gather(py::handle tree, std::vector<py::object>& leaves) const;

  private:
    enum class Kind { kLeaf, kSequence, kDict };
    Kind kind_;
    std::vector<py::object> keys_;
    std::vector<Nesting> children_;
};

// It holds no option that may be a callable: that may refer to the optimizer, in a circle that Python's collector could
// not see.
class Repeat {
  public:
    Repeat(std::shared_ptr<const Plan> plan, const py::object& nesting,
           std::vector<std::shared_ptr<const UpdateConfig>> configs);

    // The gradients in the order of the plan's arrays, as a list; None where a group has other options than in `seen`,
    // whose entries begin with their values, or where the gradients are of another structure.
    py::object match(py::handle groups, const py::list& seen, py::handle grads) const;

    // Takes a step with such a list and each group's update, (settings, learning rate, step number, loss scale, dict of
    // step constants); the settings are known.  Returns what Plan::step does.
    std::int64_t step(const py::list& grads, const py::list& group_steps) const;

  private:
    friend class Steady;

    std::shared_ptr<const Plan> plan_;
    Nesting nesting_;
    std::vector<std::shared_ptr<const UpdateConfig>> configs_;
};

// Both in one crossing, where each step has the same numbers but for its count.
class Steady {
  public:
    // Of each group the values of its options, and the learning rate, loss scale and step constants.
    using Group = std::tuple<py::tuple, double, double, std::vector<double>>;

    Steady(std::shared_ptr<const Repeat> repeat, std::vector<Group> groups);

    // Whether it took step `step_count + 1`; if not, nothing was written.
    bool step(py::handle groups, py::handle grads, std::int64_t step_count) const;

  private:
    std::vector<StepConstants> scalars_at(std::int64_t t) const;

    std::shared_ptr<const Repeat> repeat_;
    std::vector<Group> groups_;
};

}  // namespace fo
