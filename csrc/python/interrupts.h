// Work that the exception of a signal handler, such as KeyboardInterrupt, must not leave half done.
//
// Python runs handlers between two instructions of Python code, so anywhere in a function written in Python, and not
// within a native call.  Such work is therefore a function that may be called again (it computes nothing from what it
// writes), and native code calls it until it has come to its end.
#pragma once

#include <pybind11/pybind11.h>

namespace fo {

namespace py = pybind11;

// Call `work` until it returns, at most four times.  Then throw the first exception, if there was one, except a
// MemoryError after which a call returned.
void complete(const py::object& work);

// A context manager that completes `end` after its block, whatever ends it, and where `begin` raises an exception.
class Temporarily {
  public:
    Temporarily(py::object begin, py::object end) : begin_(std::move(begin)), end_(std::move(end)) {}

    void enter() const;
    void exit(const py::args&) const { complete(end_); }

    // Visit every Python object that it holds, for the garbage collector.
    int traverse(visitproc visit, void* arg) const;

  private:
    py::object begin_, end_;
};

}  // namespace fo
