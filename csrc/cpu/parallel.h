// Runs a pass on as many threads as are worthwhile, by the requested layer or by the one that measurements favour.
#pragma once

#include "layer_tuner.h"
#include "work.h"

#include <string>

namespace fo::cpu {

void run(const Work& work);

// "auto", "pool", "openmp" or "serial".  Throws std::invalid_argument for any other, and for "openmp" without OpenMP.
void set_threading(const std::string& layer);
std::string threading();

// Call set_threading(FASTOPTIM_THREADING) if that is set.  Throws std::runtime_error for a name that set_threading
// rejects.
void read_threading_from_environment();

// The layer and the number of threads of the calling thread's next large pass.
struct NextPass {
    std::string layer;
    int threads;
    const char* reason;
};
NextPass next_large_pass();

}  // namespace fo::cpu
