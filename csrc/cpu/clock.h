// Nanoseconds of a clock that never goes backwards, for deciding how to run a pass; results never depend on it.
#pragma once

#include <chrono>
#include <cstdint>

namespace fo::cpu {

inline std::int64_t now_ns() {
    using std::chrono::steady_clock;
    return std::chrono::duration_cast<std::chrono::nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace fo::cpu
