// A model: its parameters with their state, described once as segments, and the device that steps them.
//
// Recognizes ordinary gradients natively: arrays of the parameter's shape and family, on the CPU in any memory order.
// Everything else it reports to Python, which converts the gradient or raises the error.
#pragma once

#include "../device.h"
#include "../update_config.h"
#include "array.h"
#include "array_reader.h"
#include "row_index.h"

#include <pybind11/stl.h>
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

namespace fo {

// (options, learning rate, step number, loss scale, host constants) of a parameter group in one step
using GroupStep = std::tuple<const UpdateConfig*, double, std::int64_t, double, std::vector<double>>;

// An array's state: the rule's arrays, its scalar state, and the average or nothing.
using State = std::tuple<std::vector<py::array>, std::vector<py::array>, std::vector<py::array>>;

// How each of the rule's arrays is compressed, with the scales of its blocks; nothing for one that is not.
using CompressedState = std::vector<std::optional<std::tuple<std::string, std::optional<py::array>>>>;

using Address = std::uintptr_t;

struct StepResult {
    enum class Status {
        kStepped,               // value: the number of arrays that had a gradient
        kSkipped,               // a gradient is not finite, and such steps are skipped
        kParameterChanged,      // value: the first parameter that was resized, locked or moved
        kGradientUnrecognized,  // value: the first gradient that Python has to check
        kCaptured,              // of the fast path alone: a CUDA graph captures the stream
    };
    Status status;
    std::int64_t value;  // unless kStepped, nothing was written
};

// The name of the status and the value, for Python.
py::tuple as_tuple(const StepResult& result);

// Return the entries of a list, kept alive.
std::vector<py::object> objects_of(const py::list& list);

// The gradients of the arrays in one step, where the elements of those are that lie otherwise than their parameters,
// and the rows of those that do not have all.
struct Gradients {
    struct HeldRows {
        std::shared_ptr<const RowIndex> index;
        py::object values;
        Rows rows;
    };

    std::vector<Gradient> each;
    std::vector<std::unique_ptr<const Axes>> axes;
    std::vector<std::unique_ptr<const HeldRows>> rows;
};

// What an optimizer has counted: a list, and the entries that take the place of its first ones after a step.  They are
// assigned in the same native call as the step is taken, so that an exception of a signal handler finds both or
// neither.
struct Counts {
    py::list now;
    py::tuple after;

    void advance() const;  // does not allocate
};

class Model {
  public:
    // The instruction set's name (the default if empty), or the number of a GPU.
    using Where = std::variant<std::string, int>;

    // Arrays of a GPU are described by metadata arrays, and those of another library by NumPy arrays over their memory.
    // Python has checked all arrays: dense, writeable, disjoint.  `array_type` is the type of arrays and metadata
    // arrays that are gradients as they are.  `owners` are the arrays that may come to use other memory, or empty;
    // `reader` reads them, and gradients of their family.  `param_of` names the parameter of each array where a
    // parameter consists of several, which follow one another; by default each array is one.  `rows_type` is the type
    // of gradients for some rows.  `copies` receive the
    // parameters rounded to 16 bits: none, or an array or nothing for each.  `extras` are the bits that parameters of
    // 16 bits lack, likewise: int8, int16, or what rounding took away in the parameter's dtype.  `indices` are those of
    // the parameters in their optimizer, for random numbers; by default they count up.  `compressed` has an entry for
    // each array, which may be empty, or none: the compression is "rounded", "signed" or "non-negative".
    Model(std::vector<py::array> params, std::vector<State> states, std::vector<int> groups, const Where& where,
          py::object array_type, std::shared_ptr<const ArrayReader> reader, std::vector<py::object> owners,
          const std::optional<std::vector<int>>& param_of, py::object rows_type,
          const std::vector<std::optional<py::array>>& copies, const std::vector<std::optional<py::array>>& extras,
          const std::vector<std::uint32_t>& indices, std::vector<CompressedState> compressed);

    ~Model();
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    // Check that each gradient is None or recognized; otherwise the step reports it.
    StepResult recognize(const py::list& grads, const std::optional<std::vector<int>>& step_of,
                         const std::vector<GroupStep>& group_steps) const;

    // From here on, recognize gradients like this one, which `metadata` describes, for parameter i.
    void remember(std::size_t i, const py::object& grad, const py::array& metadata);

    // Step the arrays whose gradient is not None, array i by group_steps[step_of[i]], else by its group's.
    // `sums` are Elsewhere's.  Returns the result for Python.
    py::tuple step(const py::list& grads, const std::optional<std::vector<int>>& step_of,
                   const std::vector<GroupStep>& group_steps, Address stream, std::optional<double> global_norm,
                   std::vector<double> sums, const Counts& counts);

    // See Device::clipped_norms.
    std::optional<std::vector<double>> clipped_norms(const py::list& grads,
                                                     const std::optional<std::vector<int>>& step_of,
                                                     const std::vector<GroupStep>& group_steps, Address stream);

    // See Device::rule_sums.
    std::vector<double> rule_sums(const py::list& grads, const std::optional<std::vector<int>>& step_of,
                                  const std::vector<GroupStep>& group_steps, Address stream,
                                  std::optional<double> global_norm);

    // See Device::advance.
    void advance(const std::optional<std::vector<int>>& step_of, const std::vector<GroupStep>& group_steps,
                 Address stream);

    // ---- for the fast path

    // Read gradients in the arrays' order; kStepped if all that are not None were recognized.
    StepResult read_gradients(const std::vector<py::object>& grads, Gradients& gradients) const;

    // Return the result of reading, or the first gradient of rows whose rule needs a whole array.
    StepResult check_rows(const StepResult& read, const Gradients& gradients,
                          const std::vector<StepConstants>& constants) const;

    // Execute a step by the constants that each gradient names; false if it was skipped.
    bool run(Gradients& gradients, std::vector<StepConstants>& constants, void* stream,
             const Elsewhere& elsewhere = {});

    StepArgs arguments(Gradients& gradients, std::vector<StepConstants>& constants) const;

    // Return gradients without data that name their group's constants.
    Gradients no_gradients() const;

    // Throw where a group's arrays lack state that these constants, one a group, need.
    void expect_groups(const std::vector<StepConstants>& constants) const;

    std::size_t count() const { return segments_.size(); }
    const std::vector<int>& groups() const { return groups_; }  // of each array
    ComputeTypes types() const { return types_; }               // among the arrays

    // Visit every Python object that it holds, for the garbage collector.
    int traverse(visitproc visit, void* arg) const;

  private:
    // How a recognized gradient of another library looks.
    struct Recognized {
        py::object type;
        ArrayReader::Key key;
        Format format;
    };

    struct Prepared {
        std::vector<py::object> held;
        Gradients gradients;
        std::vector<StepConstants> constants;
    };

    void add_segment(std::size_t i, int param);
    ArrayRef add_codes(const py::array& codes, const std::optional<py::array>& scales, CompressionRef& ref,
                       const ArrayRef& p);
    void add_own(const void* data, std::size_t bytes);
    ArrayRef own_state(const py::array& array, const ArrayRef& dense, std::size_t i);
    bool is_unchanged(std::size_t i) const;
    bool recognize(std::size_t i, py::handle grad, Gradients& gradients) const;
    bool recognize_strided(std::size_t i, py::handle grad, Gradients& gradients) const;
    bool recognize_rows(std::size_t i, py::handle grad, Gradients& gradients) const;
    bool recognize_family(std::size_t i, py::handle grad, Gradient& gradient) const;
    bool cuts_blocks(std::size_t i) const;
    bool overlaps_own(Interval grad) const;
    void expect_state(std::size_t i, const StepConstants& constants) const;
    StepResult prepare(const py::list& grads, const std::optional<std::vector<int>>& step_of,
                       const std::vector<GroupStep>& group_steps, Prepared& prepared) const;
    std::vector<StepConstants> constants_of(const std::vector<GroupStep>& group_steps) const;

    std::vector<py::array> params_;
    std::vector<State> states_;
    std::vector<std::optional<py::array>> copies_, extras_;
    std::vector<CompressedState> compressed_;
    std::vector<int> groups_;
    std::vector<Segment> segments_;
    std::vector<ArrayRef> state_refs_;              // of all segments
    std::vector<CompressionRef> compression_refs_;  // likewise
    std::vector<double*> scalar_states_;            // of all segments
    std::vector<Layout> layouts_;
    std::deque<AxisOrder> axis_orders_;              // to which segments point
    std::vector<std::unique_ptr<const Axes>> axes_;  // of state that is broadcast
    std::vector<Identity> identities_;
    std::vector<std::optional<Identity>> copy_identities_;
    std::vector<Interval> own_;  // every byte of parameters and state, ascending
    ComputeTypes types_;
    std::unique_ptr<Device> device_;
    const bool on_gpu_;

    py::object array_type_, rows_type_;
    std::shared_ptr<const ArrayReader> reader_;
    std::vector<py::object> owners_;
    std::vector<std::shared_ptr<const Recognized>> recognized_;  // null until there is one

    // The last gradient found to share no memory with own_, by address and format: most callers pass the same buffers
    // in every step.
    mutable std::unique_ptr<std::atomic<std::uintptr_t>[]> disjoint_;
};

// Fill an array of float32 or float64 with standard normal numbers.
void fill_normal(const py::array& array, std::uint64_t seed, std::uint64_t step, std::uint32_t param,
                 const Model::Where& where, Address stream);

// Return the norm of each array, dense and of a known format, as a step sums its gradients.
std::vector<double> norms(const std::vector<py::array>& arrays, double norm_type, const Model::Where& where,
                          Address stream);

// Return the sums of squares over the rows and over the columns of a batch of matrices: an array of three axes in
// C order, on the CPU.
py::tuple square_sums(const py::array& matrices, const std::string& isa);

}  // namespace fo
