// The instruction sets that were compiled, and the one that this process uses.
#pragma once

#include "loop.h"

#include <string>
#include <vector>

namespace fo::cpu {

struct Isa {
    const char* name;
    Loops loops;
};

// Compiled and supported by this processor, weakest first.
const std::vector<Isa>& usable_isas();

// Compiled, whether or not this processor supports them.
std::vector<std::string> compiled_isas();

// These throw std::runtime_error for an instruction set that cannot be used.
const Isa& named_isa(const std::string& name);

// Return the one that FASTOPTIM_ISA named at the first call, else the strongest.
const Isa& default_isa();

}  // namespace fo::cpu
