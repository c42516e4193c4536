// The tables and constants of a step on a GPU.  A step like the one before uses them again; a captured graph keeps
// them.
#pragma once

#include "row_buffers.h"

#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace fo::cuda {

// What the launches of a step depend on in its constants.
struct UpdateKind {
    std::int32_t rule;
    NormType norm_type;
    bool cautious, rounds_randomly;

    UpdateKind(const StepConstants& constants)
        : rule(constants.rule),
          norm_type(constants.norm_type),
          cautious(constants.cautious),
          rounds_randomly(constants.rounds_randomly) {}

    bool operator==(const UpdateKind&) const = default;
};

// The arrays of a step, divided into kernel groups.
class StepTables {
  public:
    StepTables(const std::vector<Segment>& segments, const RowBuffers& rows, DeviceMemory& memory, Launcher& launcher)
        : segments_(segments), rows_(rows), memory_(memory), launcher_(launcher) {}

    // Make the tables for these gradients and rules, unless they are those of the step before.
    void prepare(const StepArgs& step, bool capturing);

    const std::vector<KernelGroup>& groups() const { return groups_; }
    std::uint32_t sum_chunks() const { return sum_chunks_; }

  private:
    bool is_same(const StepArgs& step) const;
    void make_groups(const StepArgs& step);
    void set_factors(std::size_t i, const RuleInfo& rule, std::span<Item> items);
    void make_table(KernelGroup& group, std::size_t constants_count);

    const std::vector<Segment>& segments_;
    const RowBuffers& rows_;
    DeviceMemory& memory_;
    Launcher& launcher_;
    bool capturing_ = false;
    std::vector<Gradient> gradients_;  // of the step before
    std::vector<UpdateKind> kinds_;    // of its constants
    std::vector<Gradient> gradients_in_tables_;
    std::vector<KernelGroup> groups_;
    std::uint32_t sum_chunks_ = 0;
    std::map<KernelKind, GrowBuffer> tables_;
    std::vector<GrowBuffer> factors_;  // of the rows of each segment
};

// The constants of a step.  They are in the kernels' arguments if there are few, else in device memory; always there
// where a graph captures the step, since its replays find other constants in their place.  Each capture has memory of
// its own, which no earlier graph reads, so that the captured step's constants are in it before the graph exists.
class ConstantsBuffer {
  public:
    ConstantsBuffer(DeviceMemory& memory, Launcher& launcher) : memory_(memory), launcher_(launcher) {}

    void prepare(const StepArgs& step, const std::vector<KernelGroup>& groups, bool capturing, bool has_norms);

    LaunchConstants of(const KernelGroup& group) const;

    // Set the constants that captured steps use from here on; std::runtime_error where the options have changed.
    void advance(const std::vector<StepConstants>& constants);

    // The bytes of so many constants in the arguments of a launch, 0 if they are in device memory.
    static std::size_t bytes_in_arguments(std::size_t count, bool is_double, bool capturing);

  private:
    struct Captured {
        std::vector<UpdateKind> updates;
        bool has_norms;
        std::byte* on_device[2];  // in float32, float64; null where it is not used

        bool fits(const std::vector<StepConstants>& constants) const;
    };

    DeviceMemory& memory_;
    Launcher& launcher_;
    bool capturing_ = false;
    std::size_t count_ = 0;
    std::vector<std::byte> bytes_[2];  // in float32, float64
    GrowBuffer on_device_[2];
    std::vector<Captured> captured_;
};

}  // namespace fo::cuda
