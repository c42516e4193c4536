// Entries of lists, tuples and dicts as strong references.  A borrowed one is not safe where Python code may run before
// its last use, such as a key's __eq__, or where another thread may change the container.
#pragma once

#include <pybind11/critical_section.h>
#include <pybind11/pybind11.h>

namespace fo {

namespace py = pybind11;

// Return an entry of a list or tuple; null if it has become shorter.
inline py::object entry_of(py::handle sequence, Py_ssize_t i) {
    if (PyTuple_Check(sequence.ptr()))
        return i < PyTuple_GET_SIZE(sequence.ptr())
                   ? py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(sequence.ptr(), i))
                   : py::object();
    const py::scoped_critical_section one_thread(sequence);
    if (i >= PyList_GET_SIZE(sequence.ptr())) return {};
    return py::reinterpret_borrow<py::object>(PyList_GET_ITEM(sequence.ptr(), i));
}

// Return the entry of a dict with that key, or null.
inline py::object entry_of(py::handle dict, py::handle key) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject* entry = nullptr;
    if (PyDict_GetItemRef(dict.ptr(), key.ptr(), &entry) < 0) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(entry);
#else
    const auto entry = py::reinterpret_borrow<py::object>(PyDict_GetItemWithError(dict.ptr(), key.ptr()));
    if (!entry && PyErr_Occurred()) throw py::error_already_set();
    return entry;
#endif
}

}  // namespace fo
