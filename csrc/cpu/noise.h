// Arrays of normal random numbers.
#pragma once

#include "../array_ref.h"
#include "../random_bits.h"

namespace fo::cpu {

// Fill an array of float32 or float64 with standard normal numbers, on the threads of a step.
void fill_normal(const ArrayRef& array, const RandomKey& key);

}  // namespace fo::cpu
