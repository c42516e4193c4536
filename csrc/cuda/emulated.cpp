// An emulated GPU: blocks run on the CPU, in its memory, so that kernels and launches are tested without a GPU.  Blocks
// run one after another.  FASTOPTIM_EMULATED_ORDER=random shuffles them; FASTOPTIM_EMULATED_DEVICES sets the number of
// devices.
#include "../float_environment.h"
#include "cuda.h"
#include "device.h"

#include <malloc.h>
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <random>
#include <stdexcept>

namespace fo::cuda {
namespace {

// The work of each captured graph.  Not thread-safe.
std::vector<std::vector<std::function<void()>>> graphs;
bool captures = false;

void run(const Stream&, std::function<void()> work) {
    if (captures)
        graphs.back().push_back(std::move(work));
    else
        work();
}

std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}

// A test's interpreter of the GPU's code.  It runs the launches in place of the CPU, and is told what happens to the
// memory that they use.
enum class MemoryEvent : int { kAllocate, kRelease, kWrite, kRead };

struct Interpreter {
    void (*launch)(const char* body, std::uint32_t blocks, std::uint32_t threads, const void* arguments,
                   std::size_t bytes) = nullptr;
    void (*memory)(MemoryEvent event, const void* memory, std::size_t bytes) = nullptr;
};
Interpreter interpreter;

void notify(MemoryEvent event, const void* memory, std::size_t bytes = 0) {
    if (interpreter.memory) interpreter.memory(event, memory, bytes);
}

void run_blocks(const EmulatedLaunch& launch) {
    const DefaultFloatEnvironment environment;
    std::vector<std::uint32_t> order(launch.blocks);
    std::iota(order.begin(), order.end(), 0u);
    static std::mt19937 random;
    if (variable("FASTOPTIM_EMULATED_ORDER") == "random") std::shuffle(order.begin(), order.end(), random);
    for (const std::uint32_t index : order) launch.run_block(index);
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

void wait(int, void*, void*) {}  // nothing is asynchronous

void check(int error, const std::string& where) {
    if (error != 0) throw std::runtime_error(where + " failed");
}

OnDevice::OnDevice(int) {}
OnDevice::~OnDevice() { leave(); }
void OnDevice::leave() noexcept {}

// Filled with a pattern, because new memory of a GPU is not zero, and what is freed may change.
void* allocate(std::size_t bytes) {
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!memory) throw std::bad_alloc();
    std::memset(memory, 0xa5, malloc_usable_size(memory));
    notify(MemoryEvent::kAllocate, memory, bytes);
    return memory;
}

void release(void* memory) noexcept {
    notify(MemoryEvent::kRelease, memory);
    std::memset(memory, 0x5a, malloc_usable_size(memory));
    std::free(memory);
}

bool is_capturing(const Stream&) { return captures; }

void clear(const Stream& stream, void* memory, std::size_t bytes) {
    run(stream, [=] {
        std::memset(memory, 0, bytes);
        notify(MemoryEvent::kWrite, memory, bytes);
    });
}

void write_aside(void* to, const void* from, std::size_t bytes) {
    std::memcpy(to, from, bytes);
    notify(MemoryEvent::kWrite, to, bytes);
}

Answer::~Answer() { delete number_; }

void Answer::request(const Stream&, const std::int32_t* from) {
    if (!number_) number_ = new std::int32_t;
    *number_ = *from;
}

std::int32_t Answer::wait() { return *number_; }

void read(const Stream&, void* to, const void* from, std::size_t bytes) {
    if (captures)
        throw std::runtime_error("CUDA: reading results failed: operation not permitted when stream is capturing");
    notify(MemoryEvent::kRead, from, bytes);
    std::memcpy(to, from, bytes);
}

void run(const Stream& stream, EmulatedLaunch launch) {
    run(stream, [launch = std::move(launch)] {
        if (interpreter.launch)
            interpreter.launch(launch.body, launch.blocks, launch.threads, launch.arguments.data(),
                               launch.arguments.size());
        else
            run_blocks(launch);
    });
}

}  // namespace fo::cuda

// For tests that load the module with ctypes: graphs, of which the end of a capture returns the number, and the
// interpreter (null: none).
extern "C" {
__attribute__((visibility("default"))) void fo_emulated_begin_capture() {
    fo::cuda::graphs.emplace_back();
    fo::cuda::captures = true;
}
__attribute__((visibility("default"))) int fo_emulated_end_capture() {
    fo::cuda::captures = false;
    return int(fo::cuda::graphs.size()) - 1;
}
__attribute__((visibility("default"))) void fo_emulated_replay(int graph) {
    for (const auto& work : fo::cuda::graphs.at(std::size_t(graph))) work();
}
__attribute__((visibility("default"))) void fo_emulated_interpret(decltype(fo::cuda::Interpreter::launch) launch,
                                                                  decltype(fo::cuda::Interpreter::memory) memory) {
    fo::cuda::interpreter = {launch, memory};
}
}
