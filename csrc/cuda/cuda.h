// What the bindings may ask of CUDA.  Seen from here it is plain C++; only the loop's own file sees CUDA headers.
#pragma once

#include "../call.h"

#include <string>
#include <vector>

namespace fo::cuda {

struct Info {
    std::string version;  // empty: built without CUDA
    std::vector<std::string> architectures;
    std::vector<std::string> devices;
};

Info info();

// Throws std::runtime_error where there is no build, driver or device for it.
void step(const Call& call);

}  // namespace fo::cuda
