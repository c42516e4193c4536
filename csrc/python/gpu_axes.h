// Sums over rows and columns of matrices in a GPU's memory, and what follows from them, for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace fo {

// Define the functions, whose arrays are the metadata of a GPU's arrays in C order.
void export_gpu_axes(pybind11::module_& m);

}  // namespace fo
