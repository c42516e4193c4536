// The floating-point environment of a step.  Other code in the process may have switched on flush-to-zero or another
// rounding mode, which would change bits.  Worker threads do not inherit it, so bits would depend on the thread.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#else
#include <cfenv>
#endif

namespace fo {

// For its lifetime: round to nearest, subnormals kept.  The destructor restores everything, exception flags included.
class DefaultFloatEnvironment {
  public:
    DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
    DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

#if defined(__x86_64__) || defined(_M_X64)
    // SSE and later extensions use this register alone.  The standard functions also save and load the x87 unit, which
    // is not used here, and take about ten times as long (docs/performance.md).
    DefaultFloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~DefaultFloatEnvironment() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#else
    DefaultFloatEnvironment() {
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultFloatEnvironment() { std::fesetenv(&saved_); }

  private:
    std::fenv_t saved_;
#endif
};

}  // namespace fo
