// A dense array as the loops see it: a parameter, a gradient, a state array or an average.  Plain data.
#pragma once

#include "formats.h"

#include <cstdint>

namespace fo {

struct ArrayRef {
    void* data;
    std::int64_t size;  // elements
    Format format;
};

}  // namespace fo
