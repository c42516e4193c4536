// The fast path of fo.functional on the CPU: one update of arrays that the caller passes with every call.
//
// An option set is what Python derived from the options of an earlier call; the options of a call are compared with it
// by value, or read if they are plain hyper-parameters.  No array is kept: each call reads and checks all of them
// natively.  If anything is not recognized it returns without side effects, and Python takes the slow path, which
// produces the error messages.
#pragma once

#include "../update_config.h"

#include <pybind11/stl.h>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace fo {

namespace py = pybind11;

// The state arrays that calls pass, in order: those that the options use, or those of every variant of the optimizer.
class StateArguments {
  public:
    // The role "state", "rows" (the rule's last state array), "scalar" or "average"; its index there, or -1 if the rule
    // does not use it; "compute" or the storage format.
    using Names = std::tuple<std::string, int, std::string>;
    enum class Role { kState, kRows, kScalar, kAverage };
    struct Argument {
        Role role;
        int index;
        std::optional<Format> format;  // nothing for the compute format of the parameter
    };

    StateArguments(int rule, const std::vector<std::vector<Names>>& alternatives);

    // Return the arguments of a call that passes that many arrays; null if there is no such alternative.
    const std::vector<Argument>* of(std::size_t count) const;

    int rule() const { return rule_; }
    bool averages() const { return averages_; }

  private:
    int rule_;
    bool averages_ = false;
    std::vector<std::vector<Argument>> alternatives_;
};

class OptionSet {
  public:
    // An option whose value each call may change, and its range.  A tuple has a place for each of its items.
    struct Readable {
        std::vector<int> places;  // in the rule's hyper-parameters, or kWeightDecay
        double low, high;
    };
    static constexpr int kWeightDecay = -1;  // that of the preparation

    // `given`: the options that calls pass, except for `lr` and `grad_scale`, which are read at each call; these are
    // their values where a call does not pass them.  Those that are `readable` are read at each call as well.
    // `when_nonfinite`: "" if a step is never skipped, else "skip" or "raise".  `host_constants`: None, or a function
    // of (step number, learning rate) that returns a dict.  `states`: the arrays that these options use.
    OptionSet(std::shared_ptr<const UpdateConfig> config, const py::dict& given,
              const std::map<std::string, std::tuple<std::vector<int>, double, double>>& readable, double lr,
              double grad_scale, std::string when_nonfinite, py::object host_constants,
              std::shared_ptr<const StateArguments> states);

    // Whether a call passes the same options, in whatever order, and readable ones within their range.
    bool matches(const py::dict& options) const;

    // Return the constants of a step by options that match; nothing if the learning rate, the loss scale or the step
    // number is unusual.
    std::optional<StepConstants> constants(py::handle step, const py::dict& options, ComputeTypes types) const;

    const StateArguments& states() const { return *states_; }
    const std::string& when_nonfinite() const { return when_nonfinite_; }

  private:
    struct Given {
        py::object name, value;  // without anything mutable
        Readable readable;
    };

    // Return the entry of that name, which calls usually pass at that place; null if there is none.
    const Given* find(py::handle name, std::size_t place) const;

    std::shared_ptr<const UpdateConfig> config_;
    std::vector<Given> given_;
    double lr_, grad_scale_;
    std::string when_nonfinite_;
    py::object host_constants_;
    std::shared_ptr<const StateArguments> states_;
};

// Update the arrays by the first of these option sets that matches.  Returns what the function in fo.functional
// returns.  If nothing was done it returns NotImplemented if none matches, else Ellipsis.
py::object try_update(const py::tuple& option_sets, py::handle p, py::handle g, const py::tuple& state, py::handle step,
                      const py::dict& options);

}  // namespace fo
