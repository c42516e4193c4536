// The kernels of every rule whose number modulo kParts is FO_PART; compiled once for each.  With FO_STAGED: those of
// staged arrays.
#include "kernels.h"

#include "../rule_traits.h"
#include "../rules.h"
#include "axis_sums.h"
#include "clip_units.h"
#include "launch.h"
#include "noise.h"
#include "reduce.h"
#include "row_sums.h"
#include "rows.h"
#include "staged.h"

#define FO_JOIN_(a, b) a##b
#define FO_JOIN(a, b) FO_JOIN_(a, b)

namespace fo::FO_TARGET {
namespace {

template <class T>
inline constexpr const char* kTypeName = sizeof(T) == 8 ? "float64" : "float32";

template <class Body>
KernelOf<typename Body::Takes> kernel_of(const char* rule, const char* type) {
    return {&launch<Body>, Body::name, rule, type};
}

template <class R, class T>
RuleKernels make() {
    RuleKernels kernels;
    const auto as_kernel = [](auto body) { return kernel_of<decltype(body)>(R::name, kTypeName<T>); };
    kernels.update = as_kernel(Update<R, T>());
    if constexpr (kHasBeforeReduce<R>) kernels.before_reduce = as_kernel(BeforeReduce<R, T>());
    if constexpr (kSums<R> > 0) kernels.reduce = as_kernel(Reduce<R, T>());
    if constexpr (kHasRowState<R>) kernels.reduce_rows = as_kernel(ReduceRows<R, T>());
    if constexpr (kFinalizes<R>) kernels.finalize = as_kernel(Finalize<R, T>());
    return kernels;
}

template <class R, class T>
RuleKernels make_staged() {
    RuleKernels kernels;
    if constexpr (kStages<R, T>) {
        const auto as_kernel = [](auto body) { return kernel_of<decltype(body)>(R::name, kTypeName<T>); };
        kernels.update = as_kernel(UpdateStaged<R, T>());
        if constexpr (kSums<R> > 0) kernels.reduce = as_kernel(ReduceStaged<R, T>());
    }
    return kernels;
}

#if defined(FO_STAGED)
#define FO_MAKE make_staged
#define FO_KERNELS_OF staged_kernels_of_
#else
#define FO_MAKE make
#define FO_KERNELS_OF kernels_of_
#endif

template <int kRule>
void make_if(int rule, bool is_double, RuleKernels& made) {
    if constexpr (kRule % kParts == FO_PART)
        if (kRule == rule)
            made = is_double ? FO_MAKE<Rule<kRule, double>, double>() : FO_MAKE<Rule<kRule, float>, float>();
}

}  // namespace

RuleKernels FO_JOIN(FO_KERNELS_OF, FO_PART)(int rule, bool is_double) {
    RuleKernels made;
    for_rules([&](auto... each) {
        (make_if<each>(rule, is_double, made), ...);
        return 0;
    });
    return made;
}

#if FO_PART == 0 && !defined(FO_STAGED)
CommonKernels common_kernels() {
    const char* const none = "";
    const auto sums = [&]<class T>(T) {
        return std::array{kernel_of<SumGradients<T, NormType::kTwo, false>>(none, kTypeName<T>),
                          kernel_of<SumGradients<T, NormType::kOne, false>>(none, kTypeName<T>),
                          kernel_of<SumGradients<T, NormType::kInfinity, false>>(none, kTypeName<T>)};
    };
    return {
        {sums(float()), sums(double())},
        {kernel_of<FinishGradients<float, false>>(none, kTypeName<float>),
         kernel_of<FinishGradients<double, false>>(none, kTypeName<double>)},
        kernel_of<SumGradients<double, NormType::kTwo, true>>(none, kTypeName<double>),
        kernel_of<FinishGradients<double, true>>(none, kTypeName<double>),
        kernel_of<FinishSums>(none, none),
        kernel_of<ClipAll>(none, none),
        kernel_of<AddAll>(none, none),
        kernel_of<Put>(none, none),
        {kernel_of<FillNormal<float>>(none, kTypeName<float>), kernel_of<FillNormal<double>>(none, kTypeName<double>)},
        {kernel_of<CopyRows<false>>(none, none), kernel_of<CopyRows<true>>(none, none)},
        {kernel_of<AddRows<float>>(none, kTypeName<float>), kernel_of<AddRows<double>>(none, kTypeName<double>)}};
}

AxisKernels axis_kernels() {
    const auto sums = [&]<class T>(T) {
        return std::array{kernel_of<SumAxes<T, false>>("", kTypeName<T>),
                          kernel_of<SumAxes<T, true>>("", kTypeName<T>)};
    };
    return {{sums(float()), sums(double())},
            {kernel_of<FinishAxes<false>>("", ""), kernel_of<FinishAxes<true>>("", "")},
            kernel_of<AddGroups>("", ""),
            {kernel_of<UpdateMoments<float>>("", kTypeName<float>),
             kernel_of<UpdateMoments<double>>("", kTypeName<double>)},
            {kernel_of<RowFactors<float>>("", kTypeName<float>), kernel_of<RowFactors<double>>("", kTypeName<double>)},
            kernel_of<ClipFactors>("", ""),
            {kernel_of<ClipUnits<float>>("", kTypeName<float>), kernel_of<ClipUnits<double>>("", kTypeName<double>)}};
}
#endif

}  // namespace fo::FO_TARGET
