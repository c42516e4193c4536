#include "openmp.h"

#include <atomic>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#include <cstdio>
#include <cstring>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace fo::cpu {
namespace {

std::atomic<bool> forked{false};

// Return whether this process was forked before this library was loaded, without a call of exec since.  Another library
// may have used OpenMP in its parent.
bool forked_before_import() {
#if defined(__linux__)
    constexpr unsigned long kForkedNoExec = 0x40;  // PF_FORKNOEXEC, in the ninth field of /proc/self/stat
    std::ifstream file("/proc/self/stat");
    const std::string text{std::istreambuf_iterator<char>(file), {}};  // the process's name may contain line breaks
    const auto name_end = text.rfind(')');
    if (name_end == std::string::npos) return false;
    char state = 0;
    long skipped = 0;
    unsigned long flags = 0;
    // The kernel writes this line, so no number is out of range.
    // NOLINTNEXTLINE(bugprone-unchecked-string-to-number-conversion)
    std::sscanf(text.c_str() + name_end + 1, " %c %ld %ld %ld %ld %ld %lu", &state, &skipped, &skipped, &skipped,
                &skipped, &skipped, &flags);
    return flags & kForkedNoExec;
#else
    return false;
#endif
}

#if defined(_OPENMP)
// GNU OpenMP ends the process when it cannot create a thread, so create threads first to test it.  Each calling thread
// has a team of its own, which persists until a region needs fewer threads.  Regions of other libraries are not
// counted.
bool can_create_team(int threads) {
    thread_local int team = 1;  // of this thread's last region here
    if (threads <= team) {
        team = threads;
        return true;
    }
    std::vector<std::thread> tried;
    bool created = true;
    try {
        tried.reserve(static_cast<std::size_t>(threads - 1));
        for (int i = 1; i < threads; ++i) tried.emplace_back([] {});
    } catch (const std::exception&) {  // no thread, or no memory for one
        created = false;
    }
    for (std::thread& thread : tried) thread.join();
    if (created) team = threads;
    return created;
}
#endif

#if defined(__linux__) && defined(_OPENMP)
int find_torch(dl_phdr_info* info, std::size_t, void* found) {
    return *static_cast<bool*>(found) = info->dlpi_name && std::strstr(info->dlpi_name, "libtorch_cpu");
}

// The dynamic linker loads one library of each name.  PyTorch needs "libgomp.so.1"; a wheel with a copy of its own
// renames it to "libgomp-" and a hash.
bool torch_shares_runtime() {
    bool has_torch = false;
    dl_iterate_phdr(&find_torch, &has_torch);
    Dl_info runtime;
    if (!has_torch || !dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &runtime)) return false;
    const char* name = std::strrchr(runtime.dli_fname, '/');
    return std::strncmp(name ? name + 1 : runtime.dli_fname, "libgomp.so", 10) == 0;
}
#else
bool torch_shares_runtime() { return false; }
#endif

}  // namespace

int openmp_max_threads() {
#if defined(_OPENMP)
    return omp_get_max_threads();
#else
    return 0;
#endif
}

int openmp_processors() {
#if defined(_OPENMP)
    return omp_get_num_procs();
#else
    return 0;
#endif
}

bool openmp_usable() { return kHasOpenMP && !forked.load(std::memory_order_relaxed); }

bool openmp_shared_with_torch() {
    constexpr std::int64_t kAge = 1'000'000'000;  // ns
    static std::atomic<std::int64_t> looked_at{0};
    static std::atomic<bool> shared{false};
    const std::int64_t now = now_ns();
    const std::int64_t before = looked_at.load(std::memory_order_acquire);
    if (before == 0 || now - before > kAge) {
        shared.store(torch_shares_runtime(), std::memory_order_relaxed);
        looked_at.store(now, std::memory_order_release);
    }
    return shared.load(std::memory_order_relaxed);
}

bool run_openmp([[maybe_unused]] const Work& work, [[maybe_unused]] const Cut& cut,
                [[maybe_unused]] ChunkTimer& timer) {
#if defined(_OPENMP)
    if (!can_create_team(cut.shares)) return false;
#pragma omp parallel for num_threads(cut.shares) schedule(static, 1)
    for (int share = 0; share < cut.shares; ++share) {
        std::int64_t begin = cut.begin(share);
        const std::int64_t end = cut.begin(share + 1);
        for (; share == 0 && begin < end && timer.wants_more(); begin += cut.chunk) {
            const std::int64_t stop = std::min(begin + cut.chunk, end);
            timer.time(stop - begin, [&] { work.run(begin, stop); });
        }
        if (begin < end) work.run(begin, end);
    }
    return true;
#else
    return false;
#endif
}

void guard_openmp_against_forks() {
    if (forked_before_import()) forked.store(true, std::memory_order_relaxed);
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
#endif
}

}  // namespace fo::cpu
