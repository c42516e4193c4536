#include "stages.h"

#include "../prepare.h"
#include "tile_sums.h"
#include "vectorize.h"

namespace fo::cpu::FO_ISA {

using namespace FO_TARGET;

template <class T>
void prepare_gradient(const StepConstants& constants, const Gradient& gradient, const void* p, const void* g, void* to,
                      Index n) {
    const Prepare<T> prepare(constants, gradient);
    const auto* from = static_cast<const Cell<T>*>(g);
    const auto* param = static_cast<const Cell<T>*>(p);
    auto* target = static_cast<Cell<T>*>(to);
    FO_IVDEP
    for (Index i = 0; i < n; ++i) target[i].value = prepare.gradient(from[i].value, param[i].value);
}

template <class T>
void decay_parameter(const StepConstants& constants, void* p, Index n) {
    const Prepare<T> prepare(constants, {});
    auto* param = static_cast<Cell<T>*>(p);
    FO_IVDEP
    for (Index i = 0; i < n; ++i) param[i].value = prepare.parameter(param[i].value);
}

template <class T>
void begin_masked(const StepConstants& constants, const void* p, MaskedTile<T>& tile, bool from_zero, Index n) {
    const auto bytes = static_cast<std::size_t>(n) * sizeof(T);
    tile.from_zero = from_zero;
    if (from_zero) {
        std::memset(tile.moved, 0, bytes);
        return;
    }
    copy_and_fetch(tile.p, p, bytes);
    if (constants.decay != 0) decay_parameter<T>(constants, tile.p, n);
    std::memcpy(tile.moved, tile.p, bytes);
}

template <class T>
double count_agreeing(const MaskedTile<T>& tile, const void* g, Index n) {
    const auto *p = cells_of<T>(tile.p), *moved = cells_of<T>(tile.moved), *gradient = cells_of<T>(g);
    const auto count = [p, moved, gradient, n]<bool kFromZero>(std::bool_constant<kFromZero>) {
        double sum;
        sum_tile<1>(
            [p, moved, gradient](Index i) {
                const T change = Finish<T>::template change<kFromZero>(p[i].value, moved[i].value);
                return std::array{double(Finish<T>::direction(change, gradient[i].value) < T(0) ? T(1) : T(0))};
            },
            n, &sum);
        return sum;
    };
    return tile.from_zero ? count(std::true_type()) : count(std::false_type());
}

template <class T>
void finish_parameter(const Segment& segment, const Gradient& gradient, const StepConstants& constants,
                      const MaskedTile<T>& tile, Index begin, const void* g, void* p, Index n) {
    const Finish<T> finish(constants, gradient);
    const T rate(constants.decay);
    const auto *copy_of_p = cells_of<T>(tile.p), *moved = cells_of<T>(tile.moved), *prepared = cells_of<T>(g);
    auto* param = static_cast<Cell<T>*>(p);
    // A selection by the rate for each element would not be vectorized.
    const auto mask = [finish, rate, copy_of_p, moved, prepared, param, n]<bool kFromZero, bool kDecays>(
                          std::bool_constant<kFromZero>, std::bool_constant<kDecays>) {
        FO_IVDEP
        for (Index i = 0; i < n; ++i) {
            const T own = kFromZero ? param[i].value : copy_of_p[i].value;
            const T before = kDecays ? decayed(own, rate) : own;
            param[i].value = finish.template masked<kFromZero>(before, moved[i].value, prepared[i].value);
        }
    };
    const std::true_type yes;
    const std::false_type no;
    if (finish.masks && !tile.from_zero) mask(no, no);
    if (finish.masks && tile.from_zero) rate != T(0) ? mask(yes, yes) : mask(yes, no);
    if (constants.bounds_parameter()) {
        FO_IVDEP
        for (Index i = 0; i < n; ++i) param[i].value = finish.bounded(param[i].value);
    }
    const ArrayRef& copy = segment.copy;
    if (copy.data) encode<T>(copy.format, p, element(copy.data, copy.format, begin), n);
}

template <class T>
void average_parameter(const StepConstants& constants, const void* p, void* average, Index n) {
    const Average<T> mean(constants.average_weight);
    const auto* param = static_cast<const Cell<T>*>(p);
    auto* averaged = static_cast<Cell<T>*>(average);
    FO_IVDEP
    for (Index i = 0; i < n; ++i) averaged[i].value = mean(averaged[i].value, param[i].value);
}

template <class T>
void flush_subnormals(void* array, Index n) {
    auto* x = static_cast<Cell<T>*>(array);
    FO_IVDEP
    for (Index i = 0; i < n; ++i) x[i].value = flush_subnormal(x[i].value);
}

// The functions of this file in one compute type.
#define FO_STAGES(T)                                                                                                  \
    template void prepare_gradient<T>(const StepConstants&, const Gradient&, const void*, const void*, void*, Index); \
    template void decay_parameter<T>(const StepConstants&, void*, Index);                                             \
    template void begin_masked<T>(const StepConstants&, const void*, MaskedTile<T>&, bool, Index);                    \
    template double count_agreeing<T>(const MaskedTile<T>&, const void*, Index);                                      \
    template void finish_parameter<T>(const Segment&, const Gradient&, const StepConstants&, const MaskedTile<T>&,    \
                                      Index, const void*, void*, Index);                                              \
    template void average_parameter<T>(const StepConstants&, const void*, void*, Index);                              \
    template void flush_subnormals<T>(void*, Index);

FO_STAGES(float)
FO_STAGES(double)

}  // namespace fo::cpu::FO_ISA
