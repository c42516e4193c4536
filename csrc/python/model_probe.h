// Exports what the bandwidth probe (bench/) needs of the core.
#pragma once

#include <pybind11/pybind11.h>

namespace fo {

void export_make_probe(pybind11::module_& m);

}  // namespace fo
