// Steps of rows: the rows of all arrays are copied into dense buffers, the kernels of a dense step run on these, and
// the results are copied back.  So neither rules nor kernels contain anything of rows.
#pragma once

#include "device_memory.h"
#include "launcher.h"
#include "rows.h"

#include <deque>
#include <vector>

namespace fo::cuda {

class RowBuffers {
  public:
    RowBuffers(const std::vector<Segment>& segments, DeviceMemory& memory, Launcher& launcher)
        : segments_(segments), memory_(memory), launcher_(launcher), items_(segments.size()) {}

    // Copy the rows of a step into the buffers, and add their gradients.
    void gather(const StepArgs& step);

    // Copy the updated rows back.
    void scatter();

    bool are_used() const { return !slices_.empty(); }

    // Return the items of segment i; none if its gradient is for the whole array.
    const std::vector<Item>& items(std::size_t i) const { return items_[i]; }

  private:
    // Consecutive rows of the buffers, with constants of their own.
    struct Slice {
        Segment segment;
        ArrayRef state[kMaxState];
        CompressionRef compression[kMaxState];
        Gradient gradient;
        std::size_t states, element_states;  // of the rule; the others have a number for each row
        const std::int64_t* rows;            // of the parameter, in device memory

        // Call f(address, bytes of a row) with each array that an update may change.
        template <class F>
        void for_arrays(F f);
    };

    void reserve(const StepArgs& step);
    void add(const StepArgs& step, std::size_t i);
    Slice slice_of(const StepArgs& step, std::size_t i) const;
    Slice add_copies(const StepArgs& step, std::size_t i, const std::vector<std::int64_t>& order);
    void add_slice(std::size_t i, const Slice& all, const Gradient& gradient, std::int64_t begin, std::int64_t end,
                   Uses uses);
    Gradient add_gradients(std::size_t i, const Gradient& given, const std::vector<std::int64_t>& order);
    std::byte* buffer_of(std::size_t bytes);
    const std::int64_t* upload_later(const std::vector<std::int64_t>& indices);

    const std::vector<Segment>& segments_;
    DeviceMemory& memory_;
    Launcher& launcher_;
    const FO_TARGET::CommonKernels common_ = FO_TARGET::common_kernels();
    GrowBuffer arrays_, indices_;
    std::byte* next_ = nullptr;                        // of arrays_
    std::vector<std::int64_t> uploads_;                // into indices_
    std::vector<FO_TARGET::RowJob> copies_, sums_[2];  // sums in float32, float64
    std::deque<Slice> slices_;                         // to which items point
    std::vector<std::vector<Item>> items_;
};

}  // namespace fo::cuda
