// The pass that a step is reduced against, over a model's own arrays.
#pragma once

#include "buffer.h"
#include "cpu/isa.h"

#include <pybind11/stl.h>
#include <string>
#include <vector>

namespace fo {

class BandwidthProbe {
  public:
    // Arrays as an optimizer has checked them: the state as the rule names it, and the average or nothing.
    BandwidthProbe(int rule, std::vector<py::array> params, std::vector<py::array> grads,
                   std::vector<std::vector<py::array>> states, std::vector<std::vector<py::array>> averages,
                   const std::string& isa);

    // Adds `mask` by exclusive or to every word that a step writes; returns that of all words which it only reads.
    std::uint64_t run(std::uint64_t mask);

  private:
    std::vector<py::array> kept_;  // so that the addresses stay good
    std::vector<Segment> segments_;
    std::vector<Gradient> gradients_;
    const cpu::ProbePasses& passes_;
    const bool reduces_group_;
};

}  // namespace fo
