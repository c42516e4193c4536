// A model's arrays, gathered once, and the step over them.
#pragma once

#include "buffer.h"
#include "cpu/isa.h"

#include <atomic>
#include <memory>
#include <pybind11/stl.h>
#include <string>
#include <tuple>
#include <vector>

namespace fo {

// (rule, t, maximize, weight_decay, keep, hyper-parameters in the rule's order)
using ScalarsTuple = std::tuple<int, std::int64_t, bool, double, double, std::vector<double>>;

class Plan {
  public:
    // The arrays were checked by arrays.py: dense, writeable, disjoint, of matching sizes.
    Plan(std::vector<py::array> params, std::vector<std::vector<py::array>> states,
         std::vector<int> groups, const std::string& isa);

    // Steps the arrays whose gradient is not None, the i-th with scalars[scalars_of[i]], else with its group's.
    // Returns how many it stepped; or -1, with nothing written, where arrays.py has to look again.
    std::int64_t step(const py::list& grads, const std::optional<std::vector<int>>& scalars_of,
                      const std::vector<ScalarsTuple>& scalars) const;

  private:
    struct Interval {
        std::uintptr_t begin, end;
    };

    void own(const Buffer& buffer);
    bool overlaps_own(const Buffer& buffer) const;
    bool stale(std::size_t i) const;
    bool accept(std::size_t i, const py::handle& grad, Gradient& gradient) const;
    std::vector<Scalars> construct(const std::vector<ScalarsTuple>& tuples) const;

    std::vector<py::array> params_;
    std::vector<std::vector<py::array>> states_;
    std::vector<int> groups_;
    std::vector<Segment> segments_;
    std::vector<Interval> own_;  // every byte of parameters and state, ascending
    const cpu::Updates* updates_;

    // The last gradient found clear of own_, by address and format: most loops pass the same buffers again.
    mutable std::unique_ptr<std::atomic<std::uintptr_t>[]> clear_;
};

}  // namespace fo
