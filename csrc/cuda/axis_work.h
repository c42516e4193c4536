// The work of the kernels in axis_sums.h as plain data: addresses in a GPU's memory, and sizes.
#pragma once

#include "../array_ref.h"
#include "../reduce.h"

namespace fo::cuda {

// The matrices of a batch, in C order.  A unit is kRowBlock rows and kSumTile columns of one.  The results of rows or
// of columns are null where they are not wanted, as are then their partial results.
struct AxisWork {
    const char* data;
    double *row_partials, *column_partials;  // of each row in each unit; of each column in each block of rows
    double *row_results, *column_results;
    std::int64_t batch, rows, columns;
    double scale;  // of elements before they are squared
    Format format;

    FO_HD std::int64_t blocks() const { return (rows + kRowBlock - 1) / kRowBlock; }
    FO_HD std::int64_t strips() const { return (columns + kSumTile - 1) / kSumTile; }
    FO_HD std::int64_t units() const { return batch * blocks() * strips(); }
};

// Groups of numbers, whose sums take the place of their first number.
struct GroupsWork {
    double* numbers;
    std::int64_t groups;
    std::uint32_t group;  // numbers of one
};

// Moving averages of means, new = (1 - weight) * old + weight * (sum / count + eps), and the factors of elements that
// follow from them, 1 / (sqrt(new / divisor) + summand).
struct Moment {
    const double* sums;  // each the first of `group` numbers
    const char* old;
    char* updated;
    double* wide;   // receives the averages, too; null where it is not wanted
    char* factors;  // `repeats` equal ones for each average; null where there are none
    std::int64_t size, group, repeats;
    double count, eps, weight, divisor, summand;
};

// Of rows and of columns.
struct MomentsWork {
    static constexpr int kMost = 2;

    Moment moments[kMost];
    std::int32_t count;
};

// The factors 1 / sqrt(r / max(mean, least)) of the rows of matrices, where `totals` has the sum of each matrix's r in
// the place of its first row.
struct RowFactorsWork {
    const char* averages;  // r
    const double* totals;
    char* factors;
    std::int64_t size, rows;
    double least;
};

// The sums of squares of units.  In float64 also of elements times square_scale of an infinite and of a small sum.
struct UnitSums {
    const double *squares, *scaled_down, *scaled_up;
};

// The factors clipping * max(|p|, eps) / |g| of units whose gradients g exceed that bound, as a fraction and an
// exponent each; the fraction of another unit is -1.  The smallest factor, at most 1, follows them.
struct ClipFactorsWork {
    UnitSums params, gradients;
    double* factors;
    std::int64_t units;
    double clipping, eps;
};

// A gradient in C order, and an array that receives it times these factors.
struct ClipUnitsWork {
    const char* gradient;
    char* clipped;
    const double* factors;
    std::int64_t size, units;
    bool is_last_axis;  // else the units are the indices of the first axis
    Format format;
};

}  // namespace fo::cuda
