// The instruction sets that were compiled, and the one this process uses.
#pragma once

#include "bandwidth_probe.h"
#include "loop.h"

#include <string>
#include <vector>

namespace fo::cpu {

struct Isa {
    const char* name;
    Loops loops;
    const ProbePasses* probes;  // indexed by rule
};

// Compiled in and supported by this processor, weakest first.
const std::vector<Isa>& usable_isas();

// Compiled in, whether or not this processor has them.
std::vector<std::string> compiled_isas();

// These throw std::runtime_error where there is none such.
const Isa& named_isa(const std::string& name);

// FASTOPTIM_ISA's as it was when first asked for, else the strongest.
const Isa& default_isa();

}  // namespace fo::cpu
