// The stages of a tile that are alike for every rule: load, prepare, average, store, and the terms of a gradient's
// norm. stages.cpp compiles them once per instruction set; FO_ISA names the copy.  The loops of the rules call them.
//
// T is the compute type.  A tile is given by its address as it may lie anywhere (Cell in formats.h).
#pragma once

#include "loop.h"

#include <cstdint>

namespace fo::cpu::FO_ISA {

template <class T>
void decode(Format format, const void* from, void* to, std::int64_t n);

template <class T>
void encode(Format format, const void* from, void* to, std::int64_t n);

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

template <class T>
void average_parameter(const StepConstants& constants, const void* p, void* average, std::int64_t n);

// Replace subnormal numbers by zeros of their sign.
template <class T>
void flush_subnormals(void* array, std::int64_t n);

extern const GradientLoops kGradientLoops;

}  // namespace fo::cpu::FO_ISA
