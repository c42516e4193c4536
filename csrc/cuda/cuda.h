// The interface between the bindings and CUDA: plain C++.  Only the kernels' files include CUDA headers.
#pragma once

#include "../device.h"
#include "../random_bits.h"
#include "axis_work.h"
#include "device.h"

#include <memory>
#include <string>
#include <vector>

namespace fo::cuda {

struct Info {
    std::string version;  // empty: built without CUDA
    std::vector<std::string> architectures;
    std::vector<std::string> devices;
};

// Never fails, even without a driver or a GPU.
Info info();

// Return an empty string if there is a usable GPU, else the reason why there is none.
std::string status();

// Return the GPU whose memory contains this address; 0 for memory of no GPU, or shared by all.
int device_of(const void* address);

// Let work that follows on a stream wait for the present work of another stream of the GPU.
void wait(int device, void* stream, void* other);

// Return a device that steps these segments, one for each parameter, in the order of the streams it is given.  Throws
// std::runtime_error where `status` reports a reason; so does each step that cannot be launched, before it writes.
std::unique_ptr<Device> make_device(std::vector<Segment> segments, int device);

// Fill an array of float32 or float64 with standard normal numbers, in the stream's order.
void fill_normal(const ArrayRef& array, const RandomKey& key, int device, void* stream);

// Sum the squares over the rows and over the columns of matrices in double and in a fixed order, or find the largest
// elements, which are not negative.  There are elements, and results of rows or of columns or of both.
void reduce_axes(const AxisWork& work, bool largest, const Stream& stream);

// What follows from such sums; see axis_work.h.  `is_double`: the averages and factors are in float64, else in float32.
void add_groups(const GroupsWork& work, const Stream& stream);
void update_moments(const MomentsWork& work, bool is_double, const Stream& stream);
void set_row_factors(const RowFactorsWork& work, bool is_double, const Stream& stream);

// Clip the gradients of units, such as rows; see axis_work.h.
void set_clip_factors(const ClipFactorsWork& work, const Stream& stream);
void clip_units(const ClipUnitsWork& work, const Stream& stream);

}  // namespace fo::cuda
