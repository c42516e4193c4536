// The floating-point environment of a step.  Other code in the process may have switched on flush-to-zero or another
// rounding, which would change bits; and worker threads do not inherit it, so that bits would depend on the thread.
#pragma once

#include <cfenv>

namespace fo {

// While it lives: round to nearest, subnormals kept.
class DefaultFloatEnvironment {
  public:
    DefaultFloatEnvironment() {
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultFloatEnvironment() { std::fesetenv(&saved_); }
    DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
    DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

  private:
    std::fenv_t saved_;
};

}  // namespace fo
