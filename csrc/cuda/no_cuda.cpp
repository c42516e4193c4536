// Stands in for the CUDA loop where there is none, so that no other file needs to know.
#include "cuda.h"

#include <stdexcept>

namespace fo::cuda {

Info info() { return {}; }

void step(const Call&) { throw std::runtime_error("this fastoptim was built without CUDA"); }

}  // namespace fo::cuda
