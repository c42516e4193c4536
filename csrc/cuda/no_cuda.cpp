// Replaces CUDA in a build without it.
#include "cuda.h"

#include <stdexcept>

namespace fo::cuda {

Info info() { return {}; }

std::string status() { return "this fastoptim was built without CUDA"; }

int device_of(const void*) { return 0; }

void wait(int, void*, void*) { throw std::runtime_error(status()); }

std::unique_ptr<Device> make_device(std::vector<Segment>, int) { throw std::runtime_error(status()); }

void fill_normal(const ArrayRef&, const RandomKey&, int, void*) { throw std::runtime_error(status()); }

void reduce_axes(const AxisWork&, bool, const Stream&) { throw std::runtime_error(status()); }

void add_groups(const GroupsWork&, const Stream&) { throw std::runtime_error(status()); }

void update_moments(const MomentsWork&, bool, const Stream&) { throw std::runtime_error(status()); }

void set_row_factors(const RowFactorsWork&, bool, const Stream&) { throw std::runtime_error(status()); }

void set_clip_factors(const ClipFactorsWork&, const Stream&) { throw std::runtime_error(status()); }

void clip_units(const ClipUnitsWork&, const Stream&) { throw std::runtime_error(status()); }

}  // namespace fo::cuda
