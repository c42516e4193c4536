// Conversions of tiles: between a format and the compute type, and of gradients that lie anywhere or have rows.
#include "convert.h"
#include "row_pieces.h"
#include "stages.h"
#include "tile_sums.h"
#include "vectorize.h"

#include <algorithm>
#include <cstring>

namespace fo::cpu::FO_ISA {

using namespace FO_TARGET;

template <class T>
void decode(Format format, const void* from, void* to, Index n) {
    if (format == kComputeFormat<T>) {
        std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
        return;
    }
    auto* target = static_cast<Cell<T>*>(to);
    Index done = 0;
    if (converts_blocks<T>(format))
        done = in_blocks<T>(0, n, [=](auto i) {
            FO_PREFETCH(element(from, format, i + n));  // the next tile
            load_block(format, element(from, format, i), target + i);
        });
    if (done == n) return;
    with_format(format, [=](auto kind) {
        using Kind = decltype(kind);
        const auto* source = static_cast<const Cell<typename Kind::type>*>(from);
        FO_IVDEP
        for (Index i = done; i < n; ++i) target[i].value = Kind::template decode<T>(source[i].value);
    });
}

template <class T>
void encode(Format format, const void* from, void* to, Index n) {
    const auto* source = static_cast<const Cell<T>*>(from);
    Index done = 0;
    if (converts_blocks<T>(format))
        done = in_blocks<T>(0, n, [=](auto i) { store_block(format, source + i, element(to, format, i)); });
    if (done == n) return;
    with_format(format, [=](auto kind) {
        using Kind = decltype(kind);
        auto* target = static_cast<Cell<typename Kind::type>*>(to);
        FO_IVDEP
        for (Index i = done; i < n; ++i) target[i].value = Kind::encode(source[i].value);
    });
}

// Decode elements that are `stride` bytes apart.
template <class T>
void decode_strided(Format format, const char* from, Index stride, Cell<T>* to, Index n) {
    if (stride == Index(item_size(format))) return decode<T>(format, from, to, n);
    if (stride == 0) {
        decode<T>(format, from, to, 1);
        const T value = to[0].value;
        FO_IVDEP
        for (Index i = 1; i < n; ++i) to[i].value = value;
        return;
    }
    with_format(format, [=](auto kind) {
        using Kind = decltype(kind);
        for (Index i = 0; i < n; ++i) {
            const auto* source = reinterpret_cast<const Cell<typename Kind::type>*>(from + i * stride);
            to[i].value = Kind::template decode<T>(source->value);
        }
    });
}

template <class T>
void decode_along(const ArrayRef& array, Index begin, void* to, Index n) {
    const Axes& axes = *array.axes;
    const int inner = axes.count - 1;
    auto* from = static_cast<const char*>(array.data);
    auto* target = static_cast<Cell<T>*>(to);
    Index at[Axes::kMost];
    for (int k = inner; k >= 0; begin /= axes.length[k--]) {
        at[k] = begin % axes.length[k];
        from += at[k] * axes.stride[k];
    }
    while (n > 0) {
        const Index run = std::min(n, axes.length[inner] - at[inner]);
        decode_strided<T>(array.format, from, axes.stride[inner], target, run);
        target += run;
        n -= run;
        at[inner] += run;
        from += run * axes.stride[inner];
        for (int k = inner; k > 0 && at[k] == axes.length[k]; --k) {
            from += axes.stride[k - 1] - axes.length[k] * axes.stride[k];
            at[k] = 0;
            ++at[k - 1];
        }
    }
}

template <class T>
void decode_gradient(const Gradient& gradient, Index begin, void* to, Index n) {
    if (!gradient.axes) return decode<T>(gradient.format, element(gradient.data, gradient.format, begin), to, n);
    decode_along<T>({const_cast<void*>(gradient.data), 0, gradient.format, gradient.axes}, begin, to, n);
}

template <class T>
void decode_rows(const Gradient& gradient, Index begin, void* to, Index n) {
    const Rows& rows = *gradient.rows;
    if (!rows.positions) return decode_gradient<T>(gradient, begin, to, n);
    const auto add_pieces = [&](auto read) {
        for_row_pieces(rows, begin, n, [&](const RowPiece& piece) {
            const Index first = rows.begins ? rows.begins[piece.row] : piece.row;
            const Index last = rows.begins ? rows.begins[piece.row + 1] : first + 1;
            auto* const sum = static_cast<Cell<T>*>(to) + piece.at;
            for (Index i = first; i < last; ++i) {
                const auto g = read(rows.positions[i] * rows.row_size + piece.in_row, piece.size);
                FO_IVDEP
                for (Index k = 0; k < piece.size; ++k) sum[k].value = i == first ? g(k) : sum[k].value + g(k);
            }
        });
    };
    if (gradient.axes) {
        Cell<T> copy[kSumTile];
        return add_pieces([&](Index at, Index size) {
            decode_gradient<T>(gradient, at, copy, size);
            return [&copy](Index k) { return copy[k].value; };
        });
    }
    with_format(gradient.format, [&](auto kind) {
        using Kind = decltype(kind);
        add_pieces([&](Index at, Index) {
            const auto* from = static_cast<const Cell<typename Kind::type>*>(gradient.data) + at;
            return [from](Index k) { return Kind::template decode<T>(from[k].value); };
        });
    });
}

#define FO_CONVERSIONS(T)                                                   \
    template void decode<T>(Format, const void*, void*, Index);             \
    template void encode<T>(Format, const void*, void*, Index);             \
    template void decode_along<T>(const ArrayRef&, Index, void*, Index);    \
    template void decode_gradient<T>(const Gradient&, Index, void*, Index); \
    template void decode_rows<T>(const Gradient&, Index, void*, Index);

FO_CONVERSIONS(float)
FO_CONVERSIONS(double)

}  // namespace fo::cpu::FO_ISA
