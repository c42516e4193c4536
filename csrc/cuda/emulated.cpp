// An emulated GPU: blocks run on the CPU, in its memory, so that kernels and launches are tested without a GPU.  Blocks
// run one after another.  FASTOPTIM_EMULATED_ORDER=random shuffles them; FASTOPTIM_EMULATED_DEVICES sets the number of
// devices.
#include "../float_environment.h"
#include "cuda.h"
#include "device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <random>
#include <stdexcept>

namespace fo::cuda {
namespace {

// The work of the captured graph.  Not thread-safe.
std::vector<std::function<void()>> graph;
bool captures = false;

void run(const Stream&, std::function<void()> work) {
    if (captures)
        graph.push_back(std::move(work));
    else
        work();
}

std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}

}  // namespace

Info info() {
    return {"emulated", {"emulated"}, std::vector<std::string>(static_cast<std::size_t>(device_count()), "emulated")};
}

int device_count() {
    const std::string count = variable("FASTOPTIM_EMULATED_DEVICES");
    return count.empty() ? 1 : std::stoi(count);
}

std::string status() { return device_count() > 0 ? "" : "no CUDA device was found"; }

int device_of(const void*) { return 0; }

void check(int error, const std::string& where) {
    if (error != 0) throw std::runtime_error(where + " failed");
}

OnDevice::OnDevice(int) {}
OnDevice::~OnDevice() { leave(); }
void OnDevice::leave() noexcept {}

// Filled with a pattern, because new memory of a GPU is not zero.
void* allocate(std::size_t bytes) {
    void* memory = ::operator new(bytes, std::align_val_t{256});
    std::memset(memory, 0xa5, bytes);
    return memory;
}

void release(void* memory) noexcept { ::operator delete(memory, std::align_val_t{256}); }

bool is_capturing(const Stream&) { return captures; }

void clear(const Stream& stream, void* memory, std::size_t bytes) {
    run(stream, [=] { std::memset(memory, 0, bytes); });
}

void read(const Stream&, void* to, const void* from, std::size_t bytes) {
    if (captures)
        throw std::runtime_error("CUDA: reading results failed: operation not permitted when stream is capturing");
    std::memcpy(to, from, bytes);
}

void run_blocks(const Stream& stream, std::uint32_t blocks, std::function<void(std::uint32_t)> block) {
    run(stream, [=] {
        const DefaultFloatEnvironment environment;
        std::vector<std::uint32_t> order(blocks);
        std::iota(order.begin(), order.end(), 0u);
        static std::mt19937 random;
        if (variable("FASTOPTIM_EMULATED_ORDER") == "random") std::shuffle(order.begin(), order.end(), random);
        for (const std::uint32_t index : order) block(index);
    });
}

}  // namespace fo::cuda

// Graphs, for tests that load the module with ctypes.
extern "C" {
__attribute__((visibility("default"))) void fo_emulated_begin_capture() {
    fo::cuda::graph.clear();
    fo::cuda::captures = true;
}
__attribute__((visibility("default"))) void fo_emulated_end_capture() { fo::cuda::captures = false; }
__attribute__((visibility("default"))) void fo_emulated_replay() {
    for (const auto& work : fo::cuda::graph) work();
}
}
