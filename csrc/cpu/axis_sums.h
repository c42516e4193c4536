// Sums of squares over the rows and over the columns of matrices, in one pass and in a fixed shape.
#pragma once

#include "../array_ref.h"
#include "loop.h"

#include <vector>

namespace fo::cpu {

// A batch of matrices in C order.
struct Matrices {
    ArrayRef array;
    std::int64_t batch, rows, columns;
};

struct AxisSums {
    std::vector<double> rows, columns;  // of one matrix after another
};

// Return the sums, on the threads of a step.  A row is summed as any array is (reduce.h).  In a column the squares of
// kRowBlock rows are added one after another, then the sums of these blocks.
AxisSums square_sums(const Matrices& matrices, const AxisLoops& loops);

}  // namespace fo::cpu
