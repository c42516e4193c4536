// Memory of a GPU that stays where it is as long as its owner lives: captured graphs may use it.
#pragma once

#include "device.h"

#include <algorithm>
#include <vector>

namespace fo::cuda {

class DeviceMemory {
  public:
    DeviceMemory() = default;
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;
    ~DeviceMemory() {
        for (void* each : all_) release(each);
    }

    // Allocate on the current device.
    template <class T>
    T* get(std::size_t count) {
        all_.reserve(all_.size() + 1);
        all_.push_back(allocate((count * sizeof(T) / 16 + 1) * 16));
        return static_cast<T*>(all_.back());
    }

  private:
    std::vector<void*> all_;
};

// A buffer in it that moves when it grows, to twice its size at least: the old memory is kept.
struct GrowBuffer {
    std::byte* at = nullptr;
    std::size_t size = 0;

    std::byte* grow_to(DeviceMemory& memory, std::size_t bytes) {
        if (size < bytes) {
            size = std::max(bytes, 2 * size);
            at = memory.get<std::byte>(size);
        }
        return at;
    }
};

}  // namespace fo::cuda
