// Releases the global interpreter lock during native work, safely during interpreter shutdown.
//
// An atexit function (threads.py) makes later steps of daemon threads raise SystemExit, so that their frames are freed
// and open files flushed.  A thread that is still in native code after finalization blocks until the process exits.
#pragma once

#include <pybind11/pybind11.h>
#include <vector>

namespace fo {

// Releases the lock for its lifetime.  The constructor throws SystemExit on a thread named by end_threads.
class GilRelease {
  public:
    GilRelease();
    ~GilRelease();
    GilRelease(const GilRelease&) = delete;
    GilRelease& operator=(const GilRelease&) = delete;

  private:
    PyThreadState* state_;
};

// Return threading.get_ident() of every thread that has released the lock here.
std::vector<unsigned long> stepping_threads();

// From now on these threads get SystemExit instead of a step.
void end_threads(const std::vector<unsigned long>& threads);

}  // namespace fo
