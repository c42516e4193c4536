#include "array_reader.h"

#include <algorithm>

namespace fo {
namespace {

// Convert without an exception: -1 where it is no address.
std::uintptr_t as_address(py::handle value) {
    const std::size_t address = PyLong_AsSize_t(value.ptr());
    if (address == static_cast<std::size_t>(-1)) PyErr_Clear();
    return address;
}

}  // namespace

ArrayReader::ArrayReader(const std::vector<std::string>& key, const std::string& address) : key_size_(key.size()) {
    for (std::size_t i = 0; i < key.size(); ++i) add(key[i], static_cast<int>(i));
    add(address, kAddress);
}

ArrayReader::Attribute ArrayReader::parse(std::string name) {
    const bool is_method = name.ends_with("()");
    if (is_method) name.resize(name.size() - 2);
    return {py::reinterpret_steal<py::object>(PyUnicode_InternFromString(name.c_str())), is_method};
}

void ArrayReader::add(const std::string& path, int index) {
    const std::size_t dot = path.find('.');
    const Attribute root = parse(path.substr(0, dot));
    auto branch = std::find_if(branches_.begin(), branches_.end(),
                               [&](const Branch& each) { return each.root.name.is(root.name); });
    if (branch == branches_.end()) branch = branches_.insert(branch, Branch{root, kNone, {}});
    if (dot == std::string::npos)
        branch->index = index;
    else
        branch->leaves.emplace_back(parse(path.substr(dot + 1)), index);
}

py::object ArrayReader::Attribute::of(py::handle owner) const {
    return py::reinterpret_steal<py::object>(is_method ? PyObject_CallMethodNoArgs(owner.ptr(), name.ptr())
                                                       : PyObject_GetAttr(owner.ptr(), name.ptr()));
}

template <class F>
bool ArrayReader::visit(py::handle array, F f) const {
    for (const auto& [root, index, leaves] : branches_) {
        const py::object value = root.of(array);
        if (!value || (index != kNone && !f(index, value))) return false;
        for (const auto& [leaf, leaf_index] : leaves) {
            const py::object inner = leaf.of(value);
            if (!inner || !f(leaf_index, inner)) return false;
        }
    }
    return true;
}

ArrayReader::Key ArrayReader::key_of(py::handle array) const {
    Key key(key_size_);
    const bool complete = visit(array, [&](int index, const py::object& value) {
        if (index != kAddress) key[static_cast<std::size_t>(index)] = value;
        return true;
    });
    if (!complete) throw py::error_already_set();
    return key;
}

std::uintptr_t ArrayReader::address_of(py::handle array) const {
    for (const auto& [root, index, leaves] : branches_) {
        const bool is_here = index == kAddress;
        const auto leaf =
            std::find_if(leaves.begin(), leaves.end(), [](auto& each) { return each.second == kAddress; });
        if (!is_here && leaf == leaves.end()) continue;
        py::object value = root.of(array);
        if (value && !is_here) value = leaf->first.of(value);
        if (!value) throw py::error_already_set();
        return as_address(value);
    }
    return 0;
}

std::optional<std::uintptr_t> ArrayReader::address_if_like(py::handle array, const Key& key) const {
    std::uintptr_t address = 0;
    const bool is_like = visit(array, [&](int index, const py::object& value) {
        if (index == kAddress) {
            address = as_address(value);
            return true;
        }
        const py::object& expected = key[static_cast<std::size_t>(index)];
        return value.is(expected) || PyObject_RichCompareBool(value.ptr(), expected.ptr(), Py_EQ) == 1;
    });
    if (PyErr_Occurred()) PyErr_Clear();
    if (!is_like) return std::nullopt;
    return address;
}

}  // namespace fo
