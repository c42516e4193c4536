#include "thread_count.h"

#include "clock.h"
#include "cpu_quota.h"
#include "openmp.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <climits>
#include <cstdlib>
#include <new>

namespace fo::cpu {
namespace {

constexpr std::int64_t kAffinityAge = 1'000'000;   // ns; a system call of some 0.4 us, so at most 0.04 % of the time
constexpr std::int64_t kQuotaAge = 1'000'000'000;  // ns; some 50 us of reading files

std::atomic<int> called{0};  // the number of set_num_threads; 0 if not called

// Return the first number of OMP_NUM_THREADS, which may be a list for nested regions; 0 if unset or not a number.
int environment_threads() {
    const char* text = std::getenv("OMP_NUM_THREADS");
    if (!text) return 0;
    char* end = nullptr;
    const long long n = std::strtoll(text, &end, 10);
    if (end == text || n < 1 || n > INT_MAX) return 0;
    while (std::isspace(static_cast<unsigned char>(*end))) ++end;
    return *end == '\0' || *end == ',' ? static_cast<int>(n) : 0;
}

// Read at the import, as OpenMP reads it when it is loaded.
const int environment = environment_threads();

// The result of omp_get_max_threads as long as no limit is set.
const int openmp_default = environment ? environment : openmp_processors();

int openmp_limit() {
    const int now = openmp_max_threads();
    return now == openmp_default || now < 1 ? 0 : now;
}

struct RecentQuota {
    std::atomic<std::int64_t> read_at{0};
    std::atomic<int> processors{0};

    int get(std::int64_t now) {
        const std::int64_t before = read_at.load(std::memory_order_acquire);
        if (before == 0 || now - before > kQuotaAge) {  // several threads may read at the same time
            try {
                processors.store(quota_processors(), std::memory_order_relaxed);
            } catch (const std::bad_alloc&) {  // within a step, which has begun to write: the last quota stays
            }
            read_at.store(now, std::memory_order_release);
        }
        return processors.load(std::memory_order_relaxed);
    }
};

struct RecentAffinity {
    std::int64_t read_at = 0;
    Affinity mask;

    const Affinity& get(std::int64_t now) {
        if (read_at == 0 || now - read_at > kAffinityAge) {
            mask = Affinity::of_this_thread();
            read_at = now;
        }
        return mask;
    }
};

RecentQuota quota;
thread_local RecentAffinity affinity;

}  // namespace

ThreadCount combine(const ThreadLimits& limits) {
    ThreadCount count{std::max(limits.affinity, 1), "affinity"};
    if (limits.quota && limits.quota < count.threads) count = {limits.quota, "quota"};
    if (limits.environment) count = {limits.environment, "environment"};
    if (limits.call) count = {limits.call, "call"};
    if (limits.limit && limits.limit < count.threads) count = {limits.limit, "limit"};
    return count;
}

ThreadLimits read_thread_limits() {
    return {Affinity::of_this_thread().count(), quota_processors(), environment, openmp_limit(), called.load()};
}

int num_threads() {
    ThreadLimits limits{0, 0, environment, openmp_limit(), called.load(std::memory_order_relaxed)};
    const std::int64_t now = now_ns();
    limits.affinity = affinity.get(now).count();
    if (!limits.environment && !limits.call) limits.quota = quota.get(now);
    return combine(limits).threads;
}

void set_num_threads(int n) { called.store(n, std::memory_order_relaxed); }

const Affinity& recent_affinity() { return affinity.mask; }

}  // namespace fo::cpu
