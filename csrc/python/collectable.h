// Makes a bound class visible to Python's garbage collector, so that a reference cycle through user arrays can be
// freed.
#pragma once

#include <pybind11/pybind11.h>

namespace fo {

namespace py = pybind11;

// Pass to py::class_<T, ...>.  T has `int traverse(visitproc, void*) const`.  Its objects have no clear function:
// another object of the cycle, such as an optimizer's dict, breaks it.
template <class T>
py::custom_type_setup collectable() {
    return py::custom_type_setup([](PyHeapTypeObject* heap_type) {
        auto* type = &heap_type->ht_type;
        type->tp_flags |= Py_TPFLAGS_HAVE_GC;
        type->tp_traverse = [](PyObject* self, visitproc visit, void* arg) -> int {
            Py_VISIT(Py_TYPE(self));
            if (!py::detail::is_holder_constructed(self)) return 0;
            return py::cast<const T&>(py::handle(self)).traverse(visit, arg);
        };
    });
}

}  // namespace fo
