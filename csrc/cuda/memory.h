// Loads and stores of a GPU thread: 16 bytes at once if the address is aligned, else one element.  The emulation does
// the same and aborts at a misaligned address.
#pragma once

#include "../rule.h"

#include <cstdlib>

#if defined(__CUDACC__)
#define FO_DEVICE __device__
#define FO_UNROLL _Pragma("unroll")
#define FO_NO_UNROLL _Pragma("unroll 1")
#else
#define FO_DEVICE
#define FO_UNROLL _Pragma("GCC unroll 8")
#define FO_NO_UNROLL
#endif

namespace fo::FO_TARGET {

struct alignas(16) Vector {
    std::uint32_t word[4];
};

// Return the address with its type.  With CUDA it is in global memory; in the emulation it must be aligned.
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

// Copies bits, so that the type of a value and of its memory may differ.
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
