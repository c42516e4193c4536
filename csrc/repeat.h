// A step like the one before it, in one crossing: the optimizer's structure and options are compared with what they
// were, and the arrays with the plan's.  Whatever differs is left to Python, which finds out what it is.
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

class Repeat {
  public:
    // Of each group the values of its options as last seen, the learning rate, and what the others mean.
    using Group = std::tuple<py::tuple, double, std::shared_ptr<const Hyper>>;

    Repeat(std::shared_ptr<const Plan> plan, const py::object& nesting, std::vector<Group> groups);

    // Whether it took step `step_count + 1`; if not, nothing was written.
    bool step(py::handle groups, py::handle grads, std::int64_t step_count) const;

  private:
    bool unchanged(py::handle groups) const;
    std::vector<Scalars> scalars_of(std::int64_t t) const;

    std::shared_ptr<const Plan> plan_;
    Nesting nesting_;
    std::vector<Group> groups_;
};

}  // namespace fo
