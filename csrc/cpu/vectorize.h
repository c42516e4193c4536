// What the files that are compiled once per instruction set write before their loops and around their names.
#pragma once

// The arrays of a call never overlap (the caller checked), so the iterations of a loop do not depend on each other.
#if defined(__clang__)
#define FO_IVDEP _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define FO_IVDEP _Pragma("GCC ivdep")
#elif defined(_MSC_VER)
#define FO_IVDEP __pragma(loop(ivdep))
#else
#define FO_IVDEP
#endif

// For functions with several loops that two callers share, and for those of one element: a loop that calls one is not
// vectorized.
#if defined(_MSC_VER)
#define FO_NOINLINE __declspec(noinline)
#define FO_INLINE __forceinline
#else
#define FO_NOINLINE __attribute__((noinline))
#define FO_INLINE [[gnu::always_inline]] inline
#endif

#define FO_JOIN_(a, b) a##b
#define FO_JOIN(a, b) FO_JOIN_(a, b)
