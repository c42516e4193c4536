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

// What the loops need of an optimizer's options, but for the learning rate and the step.
struct Hyper {
    int rule;
    std::vector<double> values;  // in the rule's order; the one at lr_at is each step's own
    int lr_at;
    bool maximize;
    double weight_decay;
    bool decoupled;

    Scalars at(double lr, std::int64_t t) const;
};

// (hyper-parameters, learning rate, step number)
using Update = std::tuple<const Hyper*, double, std::int64_t>;

class Plan {
  public:
    static constexpr std::int64_t kChanged = -1;
    static constexpr std::int64_t kFirstOdd = -2;

    // The arrays were checked by arrays.py: dense, writeable, disjoint, the state like its parameter.
    Plan(std::vector<py::array> params, std::vector<std::vector<py::array>> states, std::vector<int> groups,
         const std::string& isa);

    // Steps the arrays whose gradient is not None, the i-th by updates[update_of[i]], else by its group's.
    // Returns how many it stepped; or, with nothing written, kChanged where a parameter is no longer what it was, and
    // kFirstOdd - i where the i-th gradient needs a second look.
    std::int64_t step(const py::list& grads, const std::optional<std::vector<int>>& update_of,
                      const std::vector<Update>& updates) const;

  private:
    bool unchanged(std::size_t i) const;
    bool accept(std::size_t i, py::handle grad, Gradient& gradient) const;
    bool overlaps_own(Interval grad) const;

    std::vector<py::array> params_;
    std::vector<std::vector<py::array>> states_;
    std::vector<int> groups_;
    std::vector<Segment> segments_;
    std::vector<Layout> layouts_;
    std::vector<Identity> identities_;
    std::vector<Interval> own_;  // every byte of parameters and state, ascending
    const cpu::Updates* loops_;

    // The last gradient found clear of own_, by address and format: most callers pass the same buffers again.
    mutable std::unique_ptr<std::atomic<std::uintptr_t>[]> clear_;
};

}  // namespace fo
