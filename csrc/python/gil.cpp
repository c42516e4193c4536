#include "gil.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

namespace fo {
namespace {

using Threads = std::vector<unsigned long>;

// Never destroyed: threads end after static objects do.
std::mutex& mutex = *new std::mutex;
Threads& stepping = *new Threads;  // both under the mutex
Threads& ending = *new Threads;
std::atomic<bool> any_ending{false};

bool contains(const Threads& threads, unsigned long thread) {
    return std::find(threads.begin(), threads.end(), thread) != threads.end();
}

// This thread's entries in the lists.  Its number is used again when it has ended.
class ThisThread {
  public:
    ThisThread() : number_(PyThread_get_thread_ident()) {
        const std::lock_guard lock(mutex);
        if (!contains(stepping, number_)) stepping.push_back(number_);
    }
    ~ThisThread() {
        const std::lock_guard lock(mutex);
        std::erase(stepping, number_);
        std::erase(ending, number_);
    }
    ThisThread(const ThisThread&) = delete;
    ThisThread& operator=(const ThisThread&) = delete;

    bool must_end() const {
        const std::lock_guard lock(mutex);
        return contains(ending, number_);
    }

  private:
    unsigned long number_;
};

}  // namespace

GilRelease::GilRelease() {
    thread_local const ThisThread this_thread;
    if (any_ending.load(std::memory_order_relaxed) && this_thread.must_end()) {
        PyErr_SetNone(PyExc_SystemExit);
        throw pybind11::error_already_set();
    }
    state_ = PyEval_SaveThread();
}

// Python up to 3.13 ends a thread that wants the lock back after shutdown by an exception that may not leave a
// destructor: the process would be aborted.  Python 3.14 lets such a thread wait until the process ends; so do we.
GilRelease::~GilRelease() {
    try {
        PyEval_RestoreThread(state_);
    } catch (...) {
        for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
}

std::vector<unsigned long> stepping_threads() {
    const std::lock_guard lock(mutex);
    return stepping;
}

void end_threads(const std::vector<unsigned long>& threads) {
    const std::lock_guard lock(mutex);
    ending = threads;
    any_ending.store(true, std::memory_order_relaxed);
}

}  // namespace fo
