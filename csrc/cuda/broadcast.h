// Loads of state arrays that are broadcast to their parameter's shape, with one number for each row or column.
#pragma once

#include "../rule_traits.h"
#include "elements.h"
#include "tensor_table.h"

namespace fo::FO_TARGET {

// Return where the state arrays of a tensor are, one after another; those without axes are dense.
template <class R>
FO_DEVICE inline const Axes* axes_of(const TensorDesc& tensor) {
    return reinterpret_cast<const Axes*>(pointers_of<char>(tensor) + R::state.size() + kScalarStates<R>);
}

template <class R>
FO_DEVICE inline const RowDesc& rows_of(const TensorDesc& tensor) {
    return *reinterpret_cast<const RowDesc*>(axes_of<R>(tensor) + R::state.size());
}

// Division of 64 bits takes several times as long as one of 32 bits.
FO_DEVICE inline std::int64_t quotient(std::int64_t a, std::int64_t b) {
    return (a | b) >> 32 ? a / b : std::int64_t(std::uint32_t(a) / std::uint32_t(b));
}

// An element of a broadcast array: its distance from the beginning in bytes, and how many elements of the innermost
// axis there are from it on.
struct BroadcastElement {
    std::int64_t offset, left;
};

// Return the element for the one that has this place in the parameter's memory.
FO_DEVICE inline BroadcastElement broadcast_element(const Axes& axes, std::int64_t place) {
    BroadcastElement found{0, 0};
    for (int k = axes.count - 1; k >= 0; --k) {
        const std::int64_t outer = k > 0 ? quotient(place, axes.length[k]) : 0, here = place - outer * axes.length[k];
        if (k == axes.count - 1) found.left = axes.length[k] - here;
        found.offset += here * axes.stride[k];
        place = outer;
    }
    return found;
}

// Load from an array in the compute type, as load_own does; `begin` is the place of the chunk's first element.  The
// loop over elements is not unrolled, as divisions are long: each result moves on to make room for the next one.
template <bool kEdges, class T, int kItems>
FO_DEVICE inline void load_broadcast(const char* array, const Axes& axes, std::int64_t begin, const ThreadItems& span,
                                     T (&x)[kItems]) {
    const std::int64_t stride = axes.stride[axes.count - 1];
    std::int64_t offset[kItems] = {};
    BroadcastElement at{0, 0};
    FO_NO_UNROLL
    for (int e = 0; e < kItems; ++e) {
        FO_UNROLL
        for (int k = 0; k + 1 < kItems; ++k) offset[k] = offset[k + 1];
        if (e % kGroup<T> == 0) at.left = 0;
        if (!has<T>(span, e)) continue;
        at = at.left > 1 ? BroadcastElement{at.offset + stride, at.left - 1}
                         : broadcast_element(axes, begin + place<T>(span, e));
        offset[kItems - 1] = at.offset;
    }
    FO_UNROLL
    for (int e = 0; e < kItems; ++e)
        x[e] = (kEdges ? has<T>(span, e) : has_group<T, kItems>(span, e / kGroup<T> * kGroup<T>))
                   ? load<T>(array + offset[e])
                   : T(0);
}

}  // namespace fo::FO_TARGET
