// Memory, streams and errors of a GPU.  Implemented with CUDA in device.cpp, without it in emulated.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace fo::cuda {

inline constexpr int kMaxDevices = 64;

struct Stream {
    int device;
    void* handle;
};

int device_count();

// Throw std::runtime_error unless a cudaError_t, as a number, is cudaSuccess.
void check(int error, const std::string& where);

// Makes a device the thread's current one for its lifetime, and permits calls that are safe while a stream captures.
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

// Allocate on the current device.  release() waits until the memory is no longer in use.
void* allocate(std::size_t bytes);
void release(void* memory) noexcept;

bool is_capturing(const Stream& stream);
void clear(const Stream& stream, void* memory, std::size_t bytes);

// Copy to the current device on a stream of its own and wait: permitted while another stream captures.
void write_aside(void* to, const void* from, std::size_t bytes);

// A number that the GPU writes, and that the host reads without waiting for the work that follows on the stream.
class Answer {
  public:
    Answer() = default;
    ~Answer();
    Answer(const Answer&) = delete;
    Answer& operator=(const Answer&) = delete;

    void request(const Stream& stream, const std::int32_t* from);
    std::int32_t wait();  // for the number of the last request

  private:
    std::int32_t* number_ = nullptr;
    void* event_ = nullptr;
};

// Copy to the host and wait for the stream.
void read(const Stream& stream, void* to, const void* from, std::size_t bytes);

// A launch of the emulation.
struct EmulatedLaunch {
    const char* body;  // the mangled type of the kernel's body
    std::uint32_t blocks, threads;
    std::vector<std::byte> arguments;
    std::function<void(std::uint32_t index)> run_block;
};

// Run all blocks, in any order.
void run(const Stream& stream, EmulatedLaunch launch);

}  // namespace fo::cuda
