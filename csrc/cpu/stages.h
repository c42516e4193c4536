// The stages of a tile that are alike for every rule: load, prepare, average, store, and the terms of a gradient's
// norm.  decode.cpp, norms.cpp, stages.cpp and storage.cpp compile them once per instruction set; FO_ISA names the
// copy. The loops of the rules call them.
//
// T is the compute type.  A tile is given by its address as it may lie anywhere (Cell in formats.h).
#pragma once

#include "../reduce.h"
#include "loop.h"

#include <cstddef>
#include <cstdint>

namespace fo::cpu::FO_ISA {

template <class T>
const fo::FO_TARGET::Cell<T>* cells_of(const void* array) {
    return static_cast<const fo::FO_TARGET::Cell<T>*>(array);
}

template <class T>
void decode(Format format, const void* from, void* to, std::int64_t n);

template <class T>
void encode(Format format, const void* from, void* to, std::int64_t n);

// Decode elements of an array that has axes, in the parameter's order.
template <class T>
void decode_along(const ArrayRef& array, std::int64_t begin, void* to, std::int64_t n);

// Decode elements of a gradient, which may lie anywhere, in the parameter's order.
template <class T>
void decode_gradient(const Gradient& gradient, std::int64_t begin, void* to, std::int64_t n);

// Decode elements of a gradient with rows, in the order of Rows.
template <class T>
void decode_rows(const Gradient& gradient, std::int64_t begin, void* to, std::int64_t n);

// Write to `to` what a rule receives as gradient.
template <class T>
void prepare_gradient(const StepConstants& constants, const Gradient& gradient, const void* p, const void* g, void* to,
                      std::int64_t n);

// Apply decoupled weight decay.
template <class T>
void decay_parameter(const StepConstants& constants, void* p, std::int64_t n);

// A tile of a step that is masked: p after its decay, and what the rule makes of it; or, if the step does not depend on
// p, only what the rule makes of zeros.
template <class T>
struct MaskedTile {
    MaskedTile() {}  // leaves the elements uninitialized

    alignas(64) std::byte p[kSumTile * sizeof(T)];
    alignas(64) std::byte moved[kSumTile * sizeof(T)];
    bool from_zero = false;
};

// Set what the rule works on.
template <class T>
void begin_masked(const StepConstants& constants, const void* p, MaskedTile<T>& tile, bool from_zero, std::int64_t n);

// Return the number of elements whose step agrees with the gradient.
template <class T>
double count_agreeing(const MaskedTile<T>& tile, const void* g, std::int64_t n);

// Do what follows the rule: mask the step, clamp the parameter and store its copy.  The tile is only read by the mask.
template <class T>
void finish_parameter(const Segment& segment, const Gradient& gradient, const StepConstants& constants,
                      const MaskedTile<T>& tile, std::int64_t begin, const void* g, void* p, std::int64_t n);

template <class T>
void average_parameter(const StepConstants& constants, const void* p, void* average, std::int64_t n);

// Replace subnormal numbers by zeros of their sign.
template <class T>
void flush_subnormals(void* array, std::int64_t n);

extern const GradientLoops kGradientLoops;
extern const StorageLoops kStorageLoops;
extern const AxisLoops kAxisLoops;

}  // namespace fo::cpu::FO_ISA
