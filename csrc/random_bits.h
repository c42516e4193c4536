// Counter-based random numbers: functions of (seed, use, parameter, step, element), with the same bits for any division
// of the work, on any device and in NumPy (python/fastoptim/random_bits.py is the twin).
//
// Main types: RandomKey; Words, 128 random bits of four consecutive elements.  The generator is Philox4x32-10 (Salmon,
// Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011), integer arithmetic alone.  Contains no
// state and no sequence to advance.
#pragma once

#include "rule.h"

namespace fo {

// What the numbers are for: two uses of one seed are independent.  kState and the following are for state arrays.
enum class RandomUse : std::uint32_t { kNoise = 0, kRounding = 1, kState = 2 };

struct RandomKey {
    std::uint64_t seed;
    std::uint64_t step;   // below 2^48
    std::uint32_t param;  // below 2^24: the parameter's index in its optimizer
    RandomUse use;
};

struct Words {
    std::uint32_t word[4];
};

}  // namespace fo

namespace fo::FO_TARGET {

FO_HD inline Words philox(Words counter, std::uint32_t key0, std::uint32_t key1) {
    auto& c = counter.word;
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t a = std::uint64_t(0xD2511F53u) * c[0], b = std::uint64_t(0xCD9E8D57u) * c[2];
        const std::uint32_t c1 = c[1], c3 = c[3];
        c[0] = std::uint32_t(b >> 32) ^ c1 ^ key0;
        c[1] = std::uint32_t(b);
        c[2] = std::uint32_t(a >> 32) ^ c3 ^ key1;
        c[3] = std::uint32_t(a);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

// The random bits of elements 4*block to 4*block + 3, in memory order; block below 2^48.
FO_HD inline Words random_words(const RandomKey& key, std::uint64_t block) {
    const Words counter{{std::uint32_t(block), std::uint32_t(block >> 32) | std::uint32_t(key.step >> 32) << 16,
                         key.param | std::uint32_t(key.use) << 24, std::uint32_t(key.step)}};
    return philox(counter, std::uint32_t(key.seed), std::uint32_t(key.seed >> 32));
}

// -log(x) for a normal number, to a relative error of 1e-10 for x below 1/8: std::log differs between math libraries.
// x = 2^e * m with m in [1, 2); log(m / sqrt(2)) = 2 artanh(s) by its series.
FO_HD inline double negative_log(double x) {
    std::uint64_t bits;
    std::memcpy(&bits, &x, sizeof x);
    const std::uint64_t shifted = bits >> 52 | 0x4330000000000000;  // as a double, 2^52 + the biased exponent
    double exponent;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    exponent -= 0x1p52 + 1023;
    bits = (bits & 0x000FFFFFFFFFFFFF) | 0x3FF0000000000000;
    double m;
    std::memcpy(&m, &bits, sizeof m);
    const double root = 1.4142135623730951, log_root = 0.34657359027997264, log_2 = 0.6931471805599453;
    const double s = (m - root) / (m + root), square = s * s;
    const double series =
        ((((square / 11 + 1.0 / 9) * square + 1.0 / 7) * square + 1.0 / 5) * square + 1.0 / 3) * square + 1;
    return -(exponent * log_2 + (log_root + 2 * s * series));
}

// A standard normal number from 32 random bits: the quantile of (word + 1/2) / 2^32, to a relative error of 2e-7, so
// between -6.34 and 6.34.  Algorithm AS 241, PPND7 (Wichura, 1988), whose third branch 32 bits do not reach.  Every
// operation is rounded once in double.
FO_HD inline double normal_number(std::uint32_t word) {
    const double number = double(std::int32_t(word ^ 0x80000000u)) + 0x1p31;  // signed conversions are in SSE2
    const double u = (number + 0.5) * 0x1p-32, q = u - 0.5;
    const double r = 0.180625 - q * q;
    const double middle = q * (((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179) /
                          (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1);
    const double t = sqrt(negative_log(q < 0 ? u : 1 - u)) - 1.6;
    const double tail = (((0.17023821103 * t + 1.3067284816) * t + 2.7568153900) * t + 1.4234372777) /
                        ((0.12021132975 * t + 0.73700164250) * t + 1);
    return r >= 0 ? middle : q < 0 ? -tail : tail;
}

// Write the normal numbers of elements 4*block to 4*block + 3, of which there are `size` in all.
template <class T>
FO_HD inline void write_normal(const RandomKey& key, std::int64_t block, T* array, std::int64_t size) {
    const Words words = random_words(key, std::uint64_t(block));
    for (int i = 0; i < 4; ++i)
        if (4 * block + i < size) array[4 * block + i] = T(normal_number(words.word[i]));
}

}  // namespace fo::FO_TARGET
