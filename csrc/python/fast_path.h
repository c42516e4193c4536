// The fast path of a step, for the CPU and for a GPU: the same arrays and options as in the step before, new gradients.
//
// It compares the optimizer's options and structure with what they were, and steps in the same native call.  If
// anything differs it returns without side effects, and Python takes the slow path, which produces the error messages.
#pragma once

#include "model.h"
#include "nesting.h"

#include <memory>
#include <optional>
#include <vector>

namespace fo {

class FastPath {
  public:
    // A group whose steps differ in their number alone, and in a learning rate that the caller of try_step computes:
    // the keys and values of its options, the fixed learning rate, the loss scale and the host constants.
    using FixedGroup = std::tuple<py::tuple, double, double, std::vector<double>>;

    // `fixed`: nothing if some group's constants differ from step to step.  `stream`: None for the CPU; for a GPU a
    // function that returns (address of the current stream, whether a graph captures it).  `containers`: the caller's
    // dicts and lists, whose entries must stay as they are now.  No option that may be a callable is stored here.
    FastPath(std::shared_ptr<Model> model, const py::object& nesting,
             std::vector<std::shared_ptr<const UpdateConfig>> configs, std::optional<std::vector<FixedGroup>> fixed,
             py::object stream, const py::list& containers);

    // Return whether it took the step after the first entry of `counts`, which then counts it.
    // `scheduled`: None, or the number of the step that the caller means and the learning rate of each group in it.
    bool try_step(py::handle groups, py::handle grads, const py::list& counts, py::handle scheduled) const;

    // Return the gradients as a list in the order of the model's arrays.  None if a group has other options than in
    // `snapshots`, whose entries begin with the options' keys and values, or if the gradients have another structure.
    py::object match_inputs(py::handle groups, const py::list& snapshots, py::handle grads) const;

    // Step with such a list and each group's (options, learning rate, step number, loss scale, dict of host constants);
    // the options are those of `configs`.  Returns what Model::step does.  A gradient that is None is not recognized.
    py::tuple step_with(const py::list& grads, const py::list& group_steps, const py::list& counts) const;

    // Visit every Python object that it holds, for the garbage collector.
    int traverse(visitproc visit, void* arg) const;

  private:
    struct Stream {
        void* address = nullptr;
        bool captures = false;
    };

    // A container with its entries in order.  An address identifies an array or container that the optimizer keeps
    // alive; other entries do not matter.
    struct Container {
        py::object object;
        std::vector<const PyObject*> entries;
    };

    Stream current_stream() const;
    bool has_same_containers() const;
    std::vector<StepConstants> fixed_constants(std::int64_t t, const std::vector<double>& rates) const;

    std::shared_ptr<Model> model_;
    Nesting nesting_;
    std::vector<std::shared_ptr<const UpdateConfig>> configs_;
    std::optional<std::vector<FixedGroup>> fixed_;
    py::object stream_;
    std::vector<Container> containers_;
};

}  // namespace fo
