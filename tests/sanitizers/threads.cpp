// Threads that run passes of every size at the same time, while another changes the layer and the number of threads.
// Each unit of a pass must be processed exactly once.  For ThreadSanitizer, without Python: tests/sanitizers/run.sh
// builds it without OpenMP, whose run-time library is not instrumented, and it does not fork, because ThreadSanitizer
// supports no threads in the child of a process with threads (tests/interface/test_processes.py does).
//
//     threads SECONDS [SEED]
#include "../../csrc/cpu/cpu_quota.h"
#include "../../csrc/cpu/openmp.h"
#include "../../csrc/cpu/parallel.h"
#include "../../csrc/cpu/pool.h"
#include "../../csrc/cpu/thread_count.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using fo::cpu::Work;

constexpr std::int64_t kMinShare = 64;
constexpr const char* kLayers[] = {"auto", "pool", "serial", "auto", "pool"};

// Run passes over numbers that are not atomic: a unit that two threads process is a race, one that none does is seen.
int run_passes(std::uint64_t seed, int passes) {
    std::mt19937_64 random(seed);
    std::vector<std::uint32_t> units;
    for (int pass = 1; pass <= passes; ++pass) {
        const std::int64_t align = std::int64_t(1) << random() % 5;
        units.assign(random() % (std::uint64_t(1) << (random() % 16)), 0);
        const auto process = [](const void* context, std::int64_t begin, std::int64_t end) {
            auto& all = *static_cast<std::vector<std::uint32_t>*>(const_cast<void*>(context));
            for (std::int64_t i = begin; i < end; ++i) ++all[static_cast<std::size_t>(i)];
        };
        fo::cpu::run(Work{process, &units, static_cast<std::int64_t>(units.size()), kMinShare, align});
        for (std::size_t i = 0; i < units.size(); ++i)
            if (units[i] != 1) return std::printf("unit %zu of %zu: %u times\n", i, units.size(), units[i]), 1;
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) return std::fputs("usage: threads SECONDS [SEED]\n", stderr), 2;
    const auto end = Clock::now() + std::chrono::seconds(std::atoi(argv[1]));
    std::mt19937_64 random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
    fo::cpu::Pool::guard_against_forks();
    fo::cpu::guard_openmp_against_forks();

    std::atomic<int> failures{0};
    std::atomic<long> passes{0};
    int rounds = 0;
    for (; Clock::now() < end && failures == 0; ++rounds) {
        std::vector<std::thread> callers;
        for (int i = 0; i < 1 + rounds % 4; ++i)
            callers.emplace_back([&, seed = random()] { failures += run_passes(seed, 200), passes += 200; });
        callers.emplace_back([seed = random()] {
            std::mt19937_64 own(seed);
            for (int i = 0; i < 100; ++i) {
                fo::cpu::set_threading(kLayers[own() % std::size(kLayers)]);
                fo::cpu::set_num_threads(static_cast<int>(1 + own() % 6));
                if (fo::cpu::num_threads() < 1 || fo::cpu::next_large_pass().threads < 1) std::abort();
                std::this_thread::sleep_for(std::chrono::microseconds(own() % 200));
            }
        });
        for (std::thread& caller : callers) caller.join();
    }
    std::printf("%d rounds, %ld passes, %d failures\n", rounds, passes.load(), failures.load());
    return failures != 0;
}
