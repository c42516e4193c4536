// The kernels of adaptive clipping: the factor of each unit from the norms of its parameters and of its gradient, and
// the gradient times the factor of its unit.
#pragma once

#include "axis_sums.h"

namespace fo::FO_TARGET {

// Return 2^exponent, for exponents of normal numbers.
FO_DEVICE inline double power_of_two(int exponent) { return bits<double>(std::uint64_t(exponent + 1023) << 52); }

// Return x * 2^exponent, rounded once.  Where a product on the way is subnormal, the result is zero anyway.
FO_DEVICE inline double scaled_by_power(double x, int exponent) {
    constexpr int kLeast = -1022;
    while (exponent < kLeast && x != 0) {
        const int step = exponent < 2 * kLeast ? kLeast : exponent - kLeast;
        x *= power_of_two(step);
        exponent -= step;
    }
    return x == 0 ? x : x * power_of_two(exponent);
}

// A number that may exceed the range of a double: fraction * 2^exponent, the fraction in [0.5, 1) or 0.
struct WideNumber {
    static constexpr int kOfZero = -(1 << 20);  // smaller than any other exponent

    double fraction;
    int exponent;

    // value * 2^times
    FO_DEVICE WideNumber(double value, int times) : fraction(value), exponent(value == 0 ? kOfZero : times) {
        if (value == 0 || value - value != 0) return;
        if (std::fabs(value) < DBL_MIN) {
            value *= 0x1p54;
            exponent -= 54;
        }
        const auto pattern = bits<std::uint64_t>(value);
        exponent += int(pattern >> 52 & 0x7ff) - 1022;
        fraction = bits<double>((pattern & ~(std::uint64_t(0x7ff) << 52)) | std::uint64_t(1022) << 52);
    }

    // Return whether this is larger than another one, and both are finite.
    FO_DEVICE bool exceeds(const WideNumber& other) const {
        const bool is_finite = fraction - fraction == 0 && other.fraction - other.fraction == 0;
        return is_finite && (exponent == other.exponent ? fraction > other.fraction : exponent > other.exponent);
    }
};

// Set the factors, in one block since the smallest one is of all units.
struct ClipFactors : Body<kAxisThreads, kAxisThreads> {
    static constexpr const char* name = "factors of units";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const auto& work = work_of<cuda::ClipFactorsWork>(arguments);
        double* const smallest = block.shared;
        block.phase([&](int thread) {
            double own = 1;
            for (std::int64_t i = thread; i < work.units; i += kThreads) {
                const double factor = set_factor(work, i);
                if (factor < own) own = factor;
            }
            smallest[thread] = own;
        });
        for (int apart = kThreads / 2; apart > 0; apart /= 2)
            block.phase([&](int thread) {
                if (thread < apart && smallest[thread + apart] < smallest[thread])
                    smallest[thread] = smallest[thread + apart];
            });
        block.each([&](int thread) {
            if (thread == 0) work.factors[2 * work.units] = smallest[0];
        });
    }

  private:
    // Set and return the factor of a unit.
    FO_DEVICE static double set_factor(const cuda::ClipFactorsWork& work, std::int64_t i) {
        const WideNumber own = norm_of(work.params, i), least(work.eps, 0), norm = norm_of(work.gradients, i);
        const WideNumber larger = least.exceeds(own) ? least : own;
        const WideNumber bound(work.clipping * larger.fraction, larger.exponent);
        if (!norm.exceeds(bound)) {
            work.factors[2 * i] = -1;
            return 1;
        }
        const WideNumber factor(bound.fraction / norm.fraction, bound.exponent - norm.exponent);
        work.factors[2 * i] = factor.fraction;
        work.factors[2 * i + 1] = double(factor.exponent);
        return scaled_by_power(factor.fraction, factor.exponent);
    }

    FO_DEVICE static WideNumber norm_of(const cuda::UnitSums& sums, std::int64_t i) {
        const double squares = sums.squares[i], scale = sums.scaled_down ? square_scale(squares) : 1;
        if (scale == 1) return {std::sqrt(squares), 0};
        return {std::sqrt((scale < 1 ? sums.scaled_down : sums.scaled_up)[i]), scale < 1 ? 538 : -537};
    }
};

// Writes the gradient, whose units are the first or the last of its axes.
template <class T>
struct ClipUnits : Body<kAxisThreads> {
    static constexpr const char* name = "clipped units";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const auto& work = work_of<cuda::ClipUnitsWork>(arguments);
        // A factor that is subnormal in the compute type would lose digits in it.
        const bool is_narrow = work.factors[2 * work.units] >= (sizeof(T) == 4 ? double(FLT_MIN) : DBL_MIN);
        for_each_index<kThreads>(block, work.size, [&](std::int64_t i) {
            const std::int64_t unit = work.is_last_axis ? i % work.units : i / (work.size / work.units);
            const double* const factor = work.factors + 2 * unit;
            const std::int64_t at = i * std::int64_t(item_size(work.format));
            if (factor[0] < 0)
                copy(work, at);
            else
                set(work, at, factor[0], int(std::int64_t(factor[1])), is_narrow);
        });
    }

  private:
    FO_DEVICE static void set(const cuda::ClipUnitsWork& work, std::int64_t at, double fraction, int exponent,
                              bool is_narrow) {
        const T g = load_one<T>(work.format, work.gradient + at, 0);
        if (is_narrow) return encode<T>(work.format, work.clipped + at, T(scaled_by_power(fraction, exponent)) * g);
        encode<double>(work.format, work.clipped + at, scaled_by_power(fraction * double(g), exponent));
    }

    template <class X>
    FO_DEVICE static void encode(Format format, char* to, X x) {
        if (format == Format::kFloat64)
            store(to, double(x));
        else if (format == Format::kFloat32)
            store(to, float(x));
        else
            store(to, format == Format::kFloat16 ? Float16::encode(x) : Bfloat16::encode(x));
    }

    FO_DEVICE static void copy(const cuda::ClipUnitsWork& work, std::int64_t at) {
        switch (item_size(work.format)) {
            case 8: return store(work.clipped + at, load<std::uint64_t>(work.gradient + at));
            case 4: return store(work.clipped + at, load<std::uint32_t>(work.gradient + at));
            default: return store(work.clipped + at, load<std::uint16_t>(work.gradient + at));
        }
    }
};

}  // namespace fo::FO_TARGET
