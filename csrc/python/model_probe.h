// The bandwidth probe of a model (bench/).
#pragma once

#include <pybind11/pybind11.h>

namespace fo {

void export_bandwidth_probe(pybind11::module_& m);

}  // namespace fo
