// Arithmetic that a rule may use: the exact operations of its compute type, the functions below, Ema and Clock.
// Main types: Ema<T>, an exponential moving average; Clock, the step number and its powers; Unread, an argument that a
// rule ignores.  Each function is a fixed expression with defined results for NaN and signed zeros, so that the same
// expression in NumPy returns the same bits.  Contains nothing of Python, threads, CUDA or storage formats.
#pragma once

#include <array>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__CUDACC__)
#define FO_HD __host__ __device__
#else
#define FO_HD
#endif

// Rules are compiled once per instruction set, each copy in its own namespace.  With one inline function for all, the
// linker would keep any of the copies, and the baseline could run AVX-512 code.
#ifndef FO_TARGET
#define FO_TARGET host
#endif

// Each operation rounds to its own type; 32-bit x87 code would not.
static_assert(FLT_EVAL_METHOD == 0);

namespace fo::FO_TARGET {

// base^n by repeated squaring: the same multiplications on the host, on a device and in the reference, independent of
// the math library.  For a small n: the relative error is that of n roundings.
FO_HD inline double power(double base, std::int64_t n) {
    double result = 1;
    for (; n > 0; n >>= 1) {
        if (n & 1) result *= base;
        base *= base;
    }
    return result;
}

// The step number of a parameter.
struct Clock {
    std::int64_t t;  // 1 in the first step

    // 1 - beta^t: the sum of the weights in a moving average that started from zero.
    //
    // 1 minus a power would lose the digits of a small result, and a power by repeated squaring has t times the
    // rounding error of beta.  With c(n) = 1 - beta^n, c(m + n) = c(m) + c(n) - c(m)*c(n) for n = m and for the bits of
    // t.  The roundings of sums and differences are known exactly, and `low` and `result_low` collect them.
    FO_HD double bias_correction(double beta) const {
        double c = 1 - beta, low = (1 - c) - beta, result = 0, result_low = 0;
        for (std::int64_t n = t; n > 0; n >>= 1) {
            if (n & 1) {
                const double product = result * c, sum = c + result, next = sum - product;
                result_low =
                    result_low * (1 - c) + low * (1 - result) + (result - (sum - c)) + ((sum - next) - product);
                result = next;
            }
            const double square = c * c, twice = 2 * c - square;
            low = 2 * low * (1 - c) + ((2 * c - twice) - square);
            c = twice;
        }
        return result + result_low;
    }
};

// A decay rate rounded to the compute type, but below one: float32 rounds 0.99999999 to 1, and a moving average with
// decay rate 1 would never change.
template <class T>
FO_HD T decay_rate(double beta) {
    const T below_one = sizeof(T) == 4 ? T(0x1.fffffep-1) : T(0x1.fffffffffffffp-1);
    return T(beta) < below_one ? T(beta) : below_one;
}

// An exponential moving average.  1 - beta is computed from the rounded beta, so the two weights sum to one: the
// average of a constant is that constant, and the bias correction is right in every step.
template <class T>
struct Ema {
    T beta, one_minus_beta;

    FO_HD explicit Ema(double rate) : beta(decay_rate<T>(rate)), one_minus_beta(T(1 - double(beta))) {}

    FO_HD T operator()(T mean, T x) const { return beta * mean + one_minus_beta * x; }

    // The average of x^2, rounded as (one_minus_beta * x) * x.
    FO_HD T of_square(T mean, T x) const { return beta * mean + one_minus_beta * x * x; }

    FO_HD double bias_correction(const Clock& clock) const { return clock.bias_correction(double(beta)); }
};

// Decoupled weight decay at a rate that is not 0.  The digits of a small rate would be lost in a factor 1 - rate: in
// float32, 1 - 1e-7 is 1 - 1.19e-7.
template <class T>
FO_HD T decayed(T p, T rate) {
    return p - rate * p;
}

// The same at any rate: 0 leaves p unchanged, also if it is -0 or infinite.
template <class T>
FO_HD T shrink(T p, T rate) {
    const T less = decayed(p, rate);
    return rate != T(0) ? less : p;
}

// Type of an argument that a rule does not read.  Byte counts in the bandwidth probe and the documentation are
// derived from it.
struct Unread {
    template <class T>
    FO_HD Unread(const T&) {}
};

template <class T>
FO_HD T sqrt(T x) {
    return std::sqrt(x);
}

template <class T>
FO_HD T abs(T x) {
    return std::fabs(x);
}

// The larger argument; NaN if either is NaN; the first of equals.
template <class T>
FO_HD T max(T a, T b) {
    return a >= b || a != a ? a : b;
}

// The smaller argument; NaN if either is NaN; the first of equals.
template <class T>
FO_HD T min(T a, T b) {
    return a <= b || a != a ? a : b;
}

// max(x, low) for a bound that is never NaN; NaN if x is.  One instruction, where max takes four.
template <class T>
FO_HD T at_least(T x, T low) {
    return low > x ? low : x;
}

// min(x, high) for such a bound.
template <class T>
FO_HD T at_most(T x, T high) {
    return high < x ? high : x;
}

template <class T>
FO_HD T clamp(T x, T low, T high) {
    return at_most(at_least(x, low), high);
}

// x, or the zero of its sign if x is subnormal.
template <class T>
FO_HD T flush_subnormal(T x) {
    return std::fabs(x) < (sizeof(T) == 4 ? T(FLT_MIN) : T(DBL_MIN)) ? std::copysign(T(0), x) : x;
}

// -1, 0 or 1; NaN for NaN; +0 for either zero.
template <class T>
FO_HD T sign(T x) {
    return x < T(0) || x > T(0) ? std::copysign(T(1), x) : x + T(0);
}

// x moved towards zero by `threshold`, and zero within it: the proximal operator of threshold*|x|.
template <class T>
FO_HD T soft_threshold(T x, T threshold) {
    return std::copysign(at_least(abs(x) - threshold, T(0)), x);
}

// One step of Halley's method towards the cube root of a.  r is truncated to half of its digits, so that its square is
// exact and its cube is rounded once.
template <class Bits, class T>
FO_HD inline T refine_cube_root(T r, T a, Bits half_mask) {
    Bits bits;
    std::memcpy(&bits, &r, sizeof(T));
    bits &= half_mask;
    std::memcpy(&r, &bits, sizeof(T));
    const T cube = r * r * r;
    return r + r * ((a - cube) / (cube + cube + a));
}

// The cube root of any float, within one unit in the last place.  std::cbrt differs between math libraries.
// The initial guess divides the bit pattern, and with it the exponent, by three.  No branch or inner loop, so that the
// compiler vectorises it.
template <class T>
FO_HD inline T cube_root(T x) {
    constexpr bool single = sizeof(T) == 4;
    using Bits = std::conditional_t<single, std::uint32_t, std::uint64_t>;
    const Bits guess = single ? Bits(0x2a51245e) : Bits(0x2a9f900000000000);
    const Bits half_mask = single ? Bits(0xfffff000) : Bits(0xfffffffff8000000);
    // Scaled by a power of eight, so that no intermediate result overflows or is subnormal.
    const T magnitude = abs(x);
    const bool is_small = magnitude < (single ? T(0x1p-64) : T(0x1p-512));
    const T a = magnitude * (is_small ? single ? T(0x1p96) : T(0x1p768) : T(0x1p-6));
    const T unscale = is_small ? single ? T(0x1p-32) : T(0x1p-256) : T(4);

    Bits bits;
    std::memcpy(&bits, &a, sizeof(T));
    bits = (bits >> 2) + (bits >> 4);  // 1/3 = 0.010101... in binary
    bits += bits >> 4;
    bits += bits >> 8;
    bits += guess;
    T r;
    std::memcpy(&r, &bits, sizeof(T));
    r = refine_cube_root(r, a, half_mask);
    r = refine_cube_root(r, a, half_mask);
    if constexpr (!single) r = refine_cube_root(r, a, half_mask);
    return magnitude > T(0) && magnitude < T(INFINITY) ? std::copysign(r * unscale, x) : x;
}

// Registration: a rule file names its rules with FO_RULE, and its #include in rules.h adds them to the registry.
// RuleAt<N> holds the N-th rule in the order of inclusion, which is the same wherever rules.h is included.
template <int kIndex>
struct RuleAt;

inline constexpr int kFirstCounter = __COUNTER__ + 1;

#define FO_RULE(RULE)                            \
    template <>                                  \
    struct RuleAt<__COUNTER__ - kFirstCounter> { \
        template <class T>                       \
        using Rule = RULE<T>;                    \
    };

}  // namespace fo::FO_TARGET
