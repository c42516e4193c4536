// A device as the plan sees it: memory, streams and errors.  CUDA's, or the emulation's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace fo::cuda {

inline constexpr int kMaxDevices = 64;

struct Stream {
    int device;
    void* handle;
};

int device_count();

// Throws std::runtime_error unless a cudaError_t, as a number, is none.
void check(int error, const std::string& where);

// Makes a device the thread's current one while it lives, and allows what is safe while a stream captures.
class OnDevice {
  public:
    explicit OnDevice(int device);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

  private:
    void leave() noexcept;

    int before_ = -1;
    int mode_ = 0;
};

// Memory of the current device.  Released memory may still be in use: that waits.
void* allocate(std::size_t bytes);
void release(void* memory) noexcept;

bool is_capturing(const Stream& stream);
void clear(const Stream& stream, void* memory, std::size_t bytes);

// Waits for the stream.
void read(const Stream& stream, void* to, const void* from, std::size_t bytes);

// The emulation's launch: calls block(index) for each, in any order.
void run_blocks(const Stream& stream, std::uint32_t blocks, std::function<void(std::uint32_t index)> block);

}  // namespace fo::cuda
