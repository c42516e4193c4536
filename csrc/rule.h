// What a rule may use: the five exact operations of its compute type, the functions below, and a clock.
// Knows nothing of Python, threads, CUDA or storage.  Every function here treats NaN and signed zeros as one fixed
// expression does, so that the same expression in NumPy gives the same bits.
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

// Rules are compiled once per instruction set.  Each copy lives in a namespace of its own; were they one inline
// function, the linker would keep any one of them and the baseline could end up running AVX-512 code.
#ifndef FO_TARGET
#define FO_TARGET host
#endif

// Each operation rounds to its own type; 32-bit x87 code would not.
static_assert(FLT_EVAL_METHOD == 0);

namespace fo::FO_TARGET {

// Step number of an array and what follows from it.  Powers by repeated squaring in double: the same few
// multiplications here, on a device and in the reference, so no libm can change a bit.
struct Clock {
    std::int64_t t;  // 1 at the first step

    FO_HD double power(double base) const {
        double result = 1;
        for (std::int64_t n = t; n > 0; n >>= 1) {
            if (n & 1) result *= base;
            base *= base;
        }
        return result;
    }

    // 1 - base^t: what an average that started at zero still lacks.
    FO_HD double bias(double base) const { return 1 - power(base); }
};

// A decay rate as the compute type keeps it, below one: float32 would round 0.99999999 to 1, and an average with that
// would never move.
template <class T>
FO_HD T decay(double rate) {
    const T below_one = sizeof(T) == 4 ? T(0x1.fffffep-1) : T(0x1.fffffffffffffp-1);
    return T(rate) < below_one ? T(rate) : below_one;
}

// What a new value weighs beside that rate.  Taken from the rounded rate (and so exact), the two sum to one: an
// average of a constant is that constant, and 1 - keep^t corrects its bias at every t.
template <class T>
FO_HD T rise(T keep) {
    return T(1 - double(keep));
}

// What a rule takes an argument as that it does not read.  By that its bytes are counted: in the bandwidth probe, and
// in the docs.
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

// The larger; NaN if either is NaN; the first of equals.
template <class T>
FO_HD T max(T a, T b) {
    return a >= b || a != a ? a : b;
}

// The smaller; NaN if either is NaN; the first of equals.
template <class T>
FO_HD T min(T a, T b) {
    return a <= b || a != a ? a : b;
}

// x, but no less than a bound that is never NaN; NaN if x is.  One instruction, where max takes four.
template <class T>
FO_HD T at_least(T x, T low) {
    return low > x ? low : x;
}

// x, but no more than such a bound.
template <class T>
FO_HD T at_most(T x, T high) {
    return high < x ? high : x;
}

template <class T>
FO_HD T within(T x, T low, T high) {
    return at_most(at_least(x, low), high);
}

// -1, 0 or 1; NaN for NaN; +0 for either zero.
template <class T>
FO_HD T sign(T x) {
    return x < T(0) || x > T(0) ? std::copysign(T(1), x) : x + T(0);
}

// One step of Halley's method towards the cube root of a.  With half of r's digits its square is exact, and the cube is
// rounded once.
template <class Bits, class T>
FO_HD inline T nearer_cube_root(T r, T a, Bits half) {
    Bits bits;
    std::memcpy(&bits, &r, sizeof(T));
    bits &= half;
    std::memcpy(&r, &bits, sizeof(T));
    const T cube = r * r * r;
    return r + r * ((a - cube) / (cube + cube + a));
}

// The cube root, within one unit in the last place; of ordinary numbers, subnormal ones, zeros, infinities and NaN.
// From a first guess that divides the bit pattern, and with it the exponent, by three; with the arithmetic of the
// compute type and no branch or inner loop, so that it is vectorised and has the same bits everywhere.  One libm's
// differs from the next one's.
template <class T>
FO_HD inline T cube_root(T x) {
    constexpr bool single = sizeof(T) == 4;
    using Bits = std::conditional_t<single, std::uint32_t, std::uint64_t>;
    const Bits guess = single ? Bits(0x2a51245e) : Bits(0x2a9f900000000000);
    const Bits half = single ? Bits(0xfffff000) : Bits(0xfffffffff8000000);
    // Away from the ends of the range, so that no intermediate result overflows or is subnormal; by powers of eight.
    const T size = abs(x);
    const bool low = size < (single ? T(0x1p-64) : T(0x1p-512));
    const T a = size * (low ? single ? T(0x1p96) : T(0x1p768) : T(0x1p-6));
    const T unit = low ? single ? T(0x1p-32) : T(0x1p-256) : T(4);

    Bits bits;
    std::memcpy(&bits, &a, sizeof(T));
    bits = (bits >> 2) + (bits >> 4);  // 1/3 = 0.010101... in binary
    bits += bits >> 4;
    bits += bits >> 8;
    bits += guess;
    T r;
    std::memcpy(&r, &bits, sizeof(T));
    r = nearer_cube_root(r, a, half);
    r = nearer_cube_root(r, a, half);
    if constexpr (!single) r = nearer_cube_root(r, a, half);
    return size > T(0) && size < T(INFINITY) ? std::copysign(r * unit, x) : x;
}

// Registration: a rule file names its rules with FO_RULE, and including the file from rules.h is what adds them.
// Slot N holds the N-th rule in the order of inclusion, which is the same wherever rules.h is included.
template <int kSlot>
struct Slot;

inline constexpr int kSlotsBefore = __COUNTER__ + 1;

#define FO_RULE(RULE)                         \
    template <>                               \
    struct Slot<__COUNTER__ - kSlotsBefore> { \
        template <class T>                    \
        using Rule = RULE<T>;                 \
    };

}  // namespace fo::FO_TARGET
