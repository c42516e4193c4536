// The units of compiled loops: each instruction set has as many as there are groups of rules (CMakeLists.txt).
#pragma once

#include "loop.h"

#include <span>

namespace fo::cpu {

struct Unit {
    std::span<const RuleLoops> rules;
    GradientLoops gradient;  // these three are the same in every unit of an instruction set
    StorageLoops storage;
    AxisLoops axis;
};

#define FO_UNIT(ISA, NUMBER) Unit unit_##ISA##_##NUMBER();
#include "units.inc"
#undef FO_UNIT

}  // namespace fo::cpu
