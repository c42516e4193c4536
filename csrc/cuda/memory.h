// Memory as a thread of a GPU reads and writes it: 16 bytes at once where the address allows, else one element.
// Without CUDA the same, and an address that does not allow it is an error.
#pragma once

#include "../rule.h"

#include <cstdlib>

#if defined(__CUDACC__)
#define FO_DEVICE __device__
#define FO_UNROLL _Pragma("unroll")
#else
#define FO_DEVICE
#define FO_UNROLL _Pragma("GCC unroll 8")
#endif

namespace fo::FO_TARGET {

struct alignas(16) Vector {
    std::uint32_t word[4];
};

// An address that a kernel may touch: with CUDA, one in global memory; in emulation, an aligned one.
template <class T, class Void>
FO_DEVICE inline auto* global(Void* address) {
#if defined(__CUDA_ARCH__)
    __builtin_assume(__isGlobal(address));
#elif !defined(__CUDACC__)
    if (reinterpret_cast<std::uintptr_t>(address) % alignof(T) != 0) std::abort();
#endif
    using Target = std::conditional_t<std::is_const_v<Void>, const T, T>;
    return reinterpret_cast<Target*>(address);
}

// As bits, so that a value's type and its memory's may differ.
template <class T>
FO_DEVICE inline T load(const char* from) {
    const T* address = global<T>(from);
#if defined(__CUDA_ARCH__)
    return *address;
#else
    T value;
    std::memcpy(&value, address, sizeof value);
    return value;
#endif
}

template <class T>
FO_DEVICE inline void store(char* to, T value) {
    T* address = global<T>(to);
#if defined(__CUDA_ARCH__)
    *address = value;
#else
    std::memcpy(address, &value, sizeof value);
#endif
}

}  // namespace fo::FO_TARGET
