#include "array_reader.h"

namespace fo {

ArrayReader::ArrayReader(const std::vector<std::string>& key, const std::string& address) : address_(parse(address)) {
    for (const std::string& path : key) key_.push_back(parse(path));
}

ArrayReader::Path ArrayReader::parse(const std::string& path) {
    Path parsed;
    for (std::size_t begin = 0; begin <= path.size();) {
        const std::size_t end = std::min(path.find('.', begin), path.size());
        std::string name = path.substr(begin, end - begin);
        const bool is_method = name.ends_with("()");
        if (is_method) name.resize(name.size() - 2);
        parsed.push_back({py::reinterpret_steal<py::object>(PyUnicode_InternFromString(name.c_str())), is_method});
        begin = end + 1;
    }
    return parsed;
}

// Return a null object, with Python's error set, where something is missing.
py::object ArrayReader::read(const Path& path, py::handle array) {
    auto value = py::reinterpret_borrow<py::object>(array);
    for (const auto& [name, is_method] : path) {
        PyObject* const next =
            is_method ? PyObject_CallMethodNoArgs(value.ptr(), name.ptr()) : PyObject_GetAttr(value.ptr(), name.ptr());
        value = py::reinterpret_steal<py::object>(next);
        if (!value) break;
    }
    return value;
}

ArrayReader::Key ArrayReader::key_of(py::handle array) const {
    Key key;
    for (const Path& path : key_) {
        key.push_back(read(path, array));
        if (!key.back()) throw py::error_already_set();
    }
    return key;
}

std::uintptr_t ArrayReader::address_of(py::handle array) const {
    const py::object value = read(address_, array);
    if (!value) throw py::error_already_set();
    const std::size_t address = PyLong_AsSize_t(value.ptr());
    if (address == static_cast<std::size_t>(-1) && PyErr_Occurred()) throw py::error_already_set();
    return address;
}

bool ArrayReader::matches(py::handle array, const Key& key) const {
    for (std::size_t i = 0; i < key_.size(); ++i) {
        const py::object value = read(key_[i], array);
        const int equal = value ? PyObject_RichCompareBool(value.ptr(), key[i].ptr(), Py_EQ) : -1;
        if (equal < 0) PyErr_Clear();
        if (equal != 1) return false;
    }
    return true;
}

}  // namespace fo
