// Checks of arguments that Python code has already checked: a failure is a defect of this package.
#pragma once

#include <stdexcept>
#include <string>

namespace fo {

inline void expect(bool holds, const char* expected) {
    if (!holds) throw std::invalid_argument(std::string("expected ") + expected);
}

}  // namespace fo
