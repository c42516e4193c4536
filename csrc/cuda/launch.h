// One launch: a grid of blocks that all run one body.
//
// Main types: Block, which runs a function for all threads; kernel<Body>, the kernel of a body.  Without CUDA the same
// names are loops over blocks and threads.  A body has Takes (the type of its arguments), kThreads, kBlocks (resident
// blocks per multiprocessor), kShared (doubles of shared memory) and operator()(block, arguments).
#pragma once

#include "device.h"
#include "tensor_table.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#include <atomic>
#else
#include <algorithm>
#include <typeinfo>
#include <vector>
#endif

namespace fo::FO_TARGET {

#if defined(__CUDACC__)

class Block {
  public:
    explicit FO_DEVICE Block(double* memory) : shared(memory) {}

    FO_DEVICE std::uint32_t index() const { return blockIdx.x; }
    FO_DEVICE std::uint32_t count() const { return gridDim.x; }

    // Call f(thread) for each thread.
    template <class F>
    FO_DEVICE void each(F f) {
        f(int(threadIdx.x));
    }

    // Call f(thread) for each thread, then synchronize: writes of one thread are visible to all.
    template <class F>
    FO_DEVICE void phase(F f) {
        f(int(threadIdx.x));
        __syncthreads();
    }

    FO_DEVICE void add(std::uint64_t& sum, std::uint32_t count) {
        atomicAdd(reinterpret_cast<unsigned long long*>(&sum), static_cast<unsigned long long>(count));
    }

    // A value that each thread keeps from one call of `each` to the next.
    template <class X>
    class Registers {
      public:
        explicit FO_DEVICE Registers(const Block&) {}
        FO_DEVICE X& operator[](int) { return own_; }

      private:
        X own_;
    };

    // Replace a number of each thread by the largest of kThreads neighbouring threads.  All threads call it.
    template <int kThreads, class X, class NumberOf>
    FO_DEVICE void find_largest(Registers<X>& of, NumberOf number_of) {
        std::int32_t& number = number_of(of[0]);
        FO_UNROLL
        for (int distance = 1; distance < kThreads; distance *= 2) {
            const std::int32_t other = __shfl_xor_sync(0xffffffff, number, distance);
            if (other > number) number = other;
        }
    }

    // Writes that follow come after reads of the threads of a warp before.
    FO_DEVICE void sync_neighbors() { __syncwarp(); }

    double* const shared;
};

template <class Body>
__global__ void __launch_bounds__(Body::kThreads, Body::kBlocks)
    kernel(const __grid_constant__ typename Body::Takes arguments) {
    __shared__ double shared[Body::kShared + 1];
    Block block(shared);
    Body()(block, arguments);
}

// Determine how many blocks the device runs at once.
template <class Body>
cudaError_t find_resident(int device, std::uint32_t& blocks) {
    static std::atomic<std::uint32_t> known[cuda::kMaxDevices];
    blocks = known[device].load(std::memory_order_relaxed);
    if (blocks > 0) return cudaSuccess;
    int each = 0, processors = 0;
    cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel<Body>, Body::kThreads, 0);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (error != cudaSuccess) return error;
    blocks = std::uint32_t(each * processors);
    known[device].store(blocks, std::memory_order_relaxed);
    return cudaSuccess;
}

// The largest grid, as a multiple of the blocks that the device runs at once.  Beyond it each block loops.
inline constexpr std::uint32_t kWaves = 32;

// Returns a cudaError_t.
template <class Body>
int launch(const cuda::Stream& stream, const typename Body::Takes& arguments, std::uint32_t blocks) {
    std::uint32_t resident = 0;
    if (const cudaError_t error = find_resident<Body>(stream.device, resident)) return error;
    const std::uint32_t most = kWaves * resident;
    void* parameters[] = {const_cast<typename Body::Takes*>(&arguments)};
    return cudaLaunchKernel(kernel<Body>, dim3(blocks < most ? blocks : most), dim3(Body::kThreads), parameters, 0,
                            static_cast<cudaStream_t>(stream.handle));
}

#else

class Block {
  public:
    Block(std::uint32_t index, std::uint32_t count, int threads, double* memory)
        : shared(memory), index_(index), count_(count), threads_(threads) {}

    std::uint32_t index() const { return index_; }
    std::uint32_t count() const { return count_; }

    template <class F>
    void each(F f) {
        for (int thread = 0; thread < threads_; ++thread) f(thread);
    }

    template <class F>
    void phase(F f) {
        each(f);
    }

    void add(std::uint64_t& sum, std::uint32_t count) { sum += count; }

    template <class X>
    class Registers {
      public:
        explicit Registers(const Block& block) : all_(std::size_t(block.threads_)) {}
        X& operator[](int thread) { return all_[std::size_t(thread)]; }

      private:
        std::vector<X> all_;
    };

    template <int kThreads, class X, class NumberOf>
    void find_largest(Registers<X>& of, NumberOf number_of) {
        for (int first = 0; first < threads_; first += kThreads) {
            std::int32_t largest = number_of(of[first]);
            for (int k = 1; k < kThreads; ++k) largest = std::max(largest, number_of(of[first + k]));
            for (int k = 0; k < kThreads; ++k) number_of(of[first + k]) = largest;
        }
    }

    void sync_neighbors() {}

    double* const shared;

  private:
    std::uint32_t index_, count_;
    int threads_;
};

// Use half as many blocks as requested, so that each block's own loop is tested.
template <class Body>
int launch(const cuda::Stream& stream, const typename Body::Takes& arguments, std::uint32_t blocks) {
    const std::uint32_t count = (blocks + 1) / 2;
    const auto* begin = reinterpret_cast<const std::byte*>(&arguments);
    const auto run_block = [arguments, count](std::uint32_t index) {
        double shared[Body::kShared + 1];
        Block block(index, count, Body::kThreads, shared);
        Body()(block, arguments);
    };
    cuda::run(stream, {typeid(Body).name(), count, Body::kThreads, {begin, begin + sizeof arguments}, run_block});
    return 0;
}

#endif

}  // namespace fo::FO_TARGET
