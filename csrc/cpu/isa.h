// The instruction sets that were compiled, and the one this process uses.
#pragma once

#include "loop.h"

#include <string>
#include <vector>

namespace fo::cpu {

struct Isa {
    const char* name;
    const Updates* updates;
};

// Compiled in and supported by this processor, weakest first.
const std::vector<Isa>& usable_isas();

// Compiled in, whether or not this processor has them.
std::vector<std::string> compiled_isas();

// The named one; for an empty name FASTOPTIM_ISA's, else the strongest.  Throws std::runtime_error where it can't be
// had.
const Isa& choose_isa(std::string name);

}  // namespace fo::cpu
