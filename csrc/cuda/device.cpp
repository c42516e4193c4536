// CUDA's memory, streams and errors.  The run-time library is linked statically and looks for a driver at its first
// use, so a process without a driver can load it.
#include "device.h"

#include "cuda.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>

namespace fo::cuda {
namespace {

std::string as_version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

// The run-time library accepts older drivers of its major version, but those before 12.1 do not support large kernel
// arguments, and those before 12.4 no compressed kernels.
constexpr int kOldestDriver = CUDART_VERSION >= 13000 ? CUDART_VERSION / 1000 * 1000 : 12040;

// Errors that end the context: every later call returns them, whatever has failed.
bool is_sticky(cudaError_t error) {
    return (error >= cudaErrorIllegalAddress && error <= cudaErrorLaunchTimeout) ||
           (error >= cudaErrorHardwareStackError && error <= cudaErrorLaunchFailure) ||
           error == cudaErrorECCUncorrectable || error == cudaErrorAssert;
}

std::string meaning(cudaError_t error) {
    const char* const hint = "; it or earlier work on this GPU faulted, and this process can no longer use the GPU";
    return std::string(cudaGetErrorString(error)) + " (" + cudaGetErrorName(error) + ")" +
           (is_sticky(error) ? hint : "");
}

cudaStream_t handle_of(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle); }

}  // namespace

Info info() {
    Info info;
    info.version = as_version(CUDART_VERSION);
    const std::string all = FO_CUDA_ARCHITECTURES;
    for (std::size_t begin = 0; begin < all.size();) {
        const std::size_t end = std::min(all.find(',', begin), all.size());
        info.architectures.push_back(all.substr(begin, end - begin));
        begin = end + 1;
    }
    for (int device = 0; device < device_count(); ++device) {
        cudaDeviceProp properties{};
        if (cudaGetDeviceProperties(&properties, device) == cudaSuccess)
            info.devices.push_back(std::string(properties.name) + " (" + std::to_string(properties.major) + "." +
                                   std::to_string(properties.minor) + ")");
    }
    return info;
}

int device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count < kMaxDevices ? count : kMaxDevices;
    cudaGetLastError();  // clear the error, so that the next call does not report it
    return 0;
}

std::string status() {
    int driver = 0, count = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "no CUDA driver was found";
    const cudaError_t error = cudaGetDeviceCount(&count);
    cudaGetLastError();
    if (error == cudaErrorInsufficientDriver || driver < kOldestDriver)
        return "the CUDA driver (" + as_version(driver) +
               ") is too old for this fastoptim, which was built with CUDA " + as_version(CUDART_VERSION) +
               " and needs one of " + as_version(kOldestDriver) + " or later";
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) return "no CUDA device was found";
    return error == cudaSuccess ? "" : "CUDA cannot be used: " + meaning(error);
}

int device_of(const void* address) {
    cudaPointerAttributes attributes{};
    const cudaError_t error = cudaPointerGetAttributes(&attributes, address);
    cudaGetLastError();  // clear the error, so that the next call does not report it
    return error == cudaSuccess && attributes.type == cudaMemoryTypeDevice ? attributes.device : 0;
}

void wait(int device, void* stream, void* other) {
    const OnDevice here(device);
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "CUDA: creating an event");
    cudaError_t error = cudaEventRecord(event, static_cast<cudaStream_t>(other));
    if (error == cudaSuccess) error = cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), event, 0);
    cudaEventDestroy(event);  // which the stream still waits for
    check(error, "CUDA: waiting for another stream");
}

void check(int error, const std::string& where) {
    if (error != cudaSuccess) throw std::runtime_error(where + " failed: " + meaning(static_cast<cudaError_t>(error)));
}

// While a stream of this thread captures, only the relaxed mode permits to allocate memory or to load a kernel.
OnDevice::OnDevice(int device) {
    auto mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    mode_ = mode;
    try {
        int before = 0;
        check(cudaGetDevice(&before), "CUDA: asking for the current device");
        if (before == device) return;  // cudaSetDevice creates a context on the device
        check(cudaSetDevice(device), "CUDA: choosing device " + std::to_string(device));
        before_ = before;
    } catch (...) {
        leave();
        throw;
    }
}

OnDevice::~OnDevice() { leave(); }

void OnDevice::leave() noexcept {
    if (before_ >= 0) cudaSetDevice(before_);
    auto mode = static_cast<cudaStreamCaptureMode>(mode_);
    cudaThreadExchangeStreamCaptureMode(&mode);
}

void* allocate(std::size_t bytes) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "CUDA: allocating " + std::to_string(bytes) + " bytes");
    return memory;
}

void release(void* memory) noexcept { cudaFree(memory); }

bool is_capturing(const Stream& stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(handle_of(stream), &status), "CUDA: asking the stream whether it captures");
    return status != cudaStreamCaptureStatusNone;
}

void clear(const Stream& stream, void* memory, std::size_t bytes) {
    check(cudaMemsetAsync(memory, 0, bytes, handle_of(stream)), "CUDA: clearing memory");
}

void write_aside(void* to, const void* from, std::size_t bytes) {
    cudaStream_t aside = nullptr;
    check(cudaStreamCreateWithFlags(&aside, cudaStreamNonBlocking), "CUDA: creating a stream");
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, aside);
    if (error == cudaSuccess) error = cudaStreamSynchronize(aside);
    cudaStreamDestroy(aside);
    check(error, "CUDA: writing what a captured step reads");
}

Answer::~Answer() {
    if (event_) cudaEventDestroy(static_cast<cudaEvent_t>(event_));
    if (number_) cudaFreeHost(number_);
}

void Answer::request(const Stream& stream, const std::int32_t* from) {
    if (!number_) check(cudaMallocHost(reinterpret_cast<void**>(&number_), sizeof *number_), "CUDA: host memory");
    cudaEvent_t event = static_cast<cudaEvent_t>(event_);
    if (!event) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "CUDA: creating an event");
    event_ = event;
    check(cudaMemcpyAsync(number_, from, sizeof *from, cudaMemcpyDeviceToHost, handle_of(stream)),
          "CUDA: reading results");
    check(cudaEventRecord(event, handle_of(stream)), "CUDA: reading results");
}

std::int32_t Answer::wait() {
    check(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)), "CUDA: the step");
    return *number_;
}

void read(const Stream& stream, void* to, const void* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, handle_of(stream)), "CUDA: reading results");
    check(cudaStreamSynchronize(handle_of(stream)), "CUDA: the step");
}

}  // namespace fo::cuda
