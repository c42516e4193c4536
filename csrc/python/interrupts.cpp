#include "interrupts.h"

#include <optional>

namespace fo {

void complete(const py::object& work) {
    constexpr int kAttempts = 4;
    std::optional<py::error_already_set> first;
    bool done = false;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        done = static_cast<bool>(py::reinterpret_steal<py::object>(PyObject_CallNoArgs(work.ptr())));
        if (done) break;
        py::error_already_set error;
        if (!first || first->matches(PyExc_MemoryError)) first.emplace(std::move(error));
    }
    if (first && !(done && first->matches(PyExc_MemoryError))) throw std::move(*first);
}

void Temporarily::enter() const {
    if (py::reinterpret_steal<py::object>(PyObject_CallNoArgs(begin_.ptr()))) return;
    const py::error_already_set error;
    complete(end_);
    throw error;
}

int Temporarily::traverse(visitproc visit, void* arg) const {
    if (const int stop = visit(begin_.ptr(), arg)) return stop;
    return visit(end_.ptr(), arg);
}

}  // namespace fo
