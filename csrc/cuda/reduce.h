// The reduction kernels, with the shape that ../reduce.h defines, and the kernels that use the sums.
//
// SumGradients and Reduce add tiles to partial sums, one for each chunk.  FinishSums, FinishGradients, ClipAll and
// AddAll complete the sums of each array and of all.  BeforeReduce and Finalize change the constants of each array. Put
// uploads.
#pragma once

#include "../reduce.h"
#include "update.h"

namespace fo::FO_TARGET {

// Tiles of a chunk.  A power of two, so that a chunk's sum is a node of the tree of pairwise sums.
inline constexpr int kSumTiles = 16;
inline constexpr std::int64_t kSumChunk = kSumTiles * kSumTile;

// Each thread has 8 neighbouring lanes of a tile.
inline constexpr int kSumThreads = kSumTiles * kLanes / kItemsPerThread;

inline constexpr int kRuleThreads = 128;  // of the bodies that change a rule in a thread each
inline constexpr int kPutThreads = 256;

// The launch bounds of a body (launch.h) that needs few registers, and the float64 values of its shared memory.
template <int kThreadsOfBlock, int kSharedOfBlock = 0>
struct Body {
    using Takes = Arguments;
    static constexpr int kThreads = kThreadsOfBlock;
    static constexpr int kBlocks = 1;
    static constexpr int kShared = kSharedOfBlock;
};

// Call add_pairwise of ../reduce.h with the threads of a block.
template <class Block>
FO_DEVICE inline void add_pairwise(Block& block, int threads, const PairwiseSums& at) {
    add_pairwise(at, threads, [&](auto f) { block.phase(f); });
}

// Add a thread's lanes, and write their sums.
template <int kTerms, bool kLargest>
FO_DEVICE inline void add_lanes(double (&lanes)[kTerms][kItemsPerThread], double* sums, int stride) {
    FO_UNROLL
    for (int k = 0; k < kTerms; ++k) {
        FO_UNROLL
        for (int width = 1; width < kItemsPerThread; width *= 2) {
            FO_UNROLL
            for (int e = 0; e < kItemsPerThread; e += 2 * width)
                lanes[k][e] = combine(kLargest, lanes[k][e], lanes[k][e + width]);
        }
        sums[k * stride] = lanes[k][0];
    }
}

// The tile of a thread and its first lane there.
FO_DEVICE inline std::int32_t tile_of(int thread) { return thread / (kLanes / kItemsPerThread) * kSumTile; }
FO_DEVICE inline int lane_of(int thread) { return thread % (kLanes / kItemsPerThread) * kItemsPerThread; }

// Sum a thread's lanes of one tile, the first of which is `lane`.  terms(span, lanes) adds the terms of the 8 elements
// in each of Terms::kRows rows to the running sums in lanes[kTerms][kItemsPerThread].
template <int kTerms, bool kLargest, class Terms>
FO_DEVICE inline void sum_lanes(std::int32_t tile, int lane, std::int32_t high, int group, double* sums, int stride,
                                Terms terms) {
    double lanes[kTerms][kItemsPerThread] = {};
    const std::int32_t end = high < tile + kSumTile ? high : tile + std::int32_t(kSumTile);
    for (std::int32_t row = tile + lane; row < end; row += Terms::kRows * kLanes)
        terms(ThreadItems{row, group, 0, high}, lanes);
    add_lanes<kTerms, kLargest>(lanes, sums, stride);
}

// Write the sums of each thread's lanes to shared memory.
template <class T, int kTerms, bool kLargest, class Block, class Terms>
FO_DEVICE inline void sum_tiles(Block& block, std::int32_t high, Terms terms) {
    block.phase([&](int thread) {
        sum_lanes<kTerms, kLargest>(tile_of(thread), lane_of(thread), high, kGroup<T>, block.shared + thread,
                                    kSumThreads, terms);
    });
}

// Write the partial sums of each chunk of tiles of the tensors that `includes` selects.  sum_all(tensor, constants,
// begin, high) does what sum_tiles does, for elements before begin + high.
template <class T, int kTerms, bool kLargest, class Block, class Includes, class SumAll>
FO_DEVICE inline void sum_chunks(Block& block, const Arguments& arguments, Includes includes, SumAll sum_all) {
    const TensorTable table(arguments);
    const std::uint32_t* begins = table.sum_begins();
    const std::uint32_t end = begins[table.count()];
    std::uint32_t i = 0;
    for (std::uint32_t chunk = begins[0] + block.index(); chunk < end; chunk += block.count()) {
        i = find(begins, i, table.count(), chunk);
        const TensorDesc& tensor = table.tensor(i);
        const KernelConstants<T>& constants = table.template constants<T>(tensor);
        if (!includes(tensor, constants)) continue;
        const std::int64_t begin = std::int64_t(chunk - begins[i]) * kSumChunk;
        const std::int64_t left = tensor.size - begin;
        const std::int32_t high = std::int32_t(left < kSumChunk ? left : kSumChunk);
        sum_all(tensor, constants, begin, high);
        const int tiles = int((high + kSumTile - 1) / kSumTile);
        add_pairwise(
            block, kSumThreads,
            {block.shared, std::uint32_t(tiles * (kLanes / kItemsPerThread)), 1, kTerms, kSumThreads, kLargest});
        block.phase([&](int thread) {
            if (thread < kTerms)
                arguments.workspace.partials[std::size_t(chunk) * kMaxSums + thread] =
                    block.shared[thread * kSumThreads];
        });
    }
}

// Return the scale of a gradient's squares: with kScaled that of the second pass, 1 where none is needed.
template <bool kScaled, class T>
FO_DEVICE inline double scale_of(const Workspace& at, const TensorDesc& tensor, const KernelConstants<T>& constants) {
    if (!kScaled || constants.norm_type != NormType::kTwo) return 1;
    return square_scale(at.sums[std::size_t(tensor.index) * kMaxSums]);
}

template <class T, NormType kType, bool kScaled>
struct GradientTerms {
    static constexpr int kRows = 2;  // whose loads are in flight at once
    static_assert(kSumTile % (kRows * kLanes) == 0);

    const TensorDesc& tensor;
    Prepare<T> prepare;
    const char* array;

    FO_DEVICE GradientTerms(const TensorDesc& tensor, const KernelConstants<T>& constants, std::int64_t begin,
                            double scale)
        : tensor(tensor),
          prepare(constants.prepare),
          array(tensor.g + begin * std::int64_t(item_size(tensor.g_format))) {
        prepare.clip = T(scale);
    }

    FO_DEVICE void operator()(const ThreadItems& span, double (*lanes)[kItemsPerThread]) const {
        T g[kRows][kItemsPerThread];
        FO_UNROLL
        for (int row = 0; row < kRows; ++row)
            load_as_is<true>(tensor.g_format, array, row_of(span, row), tensor.sum_aligned16_mask & kAlignedG, g[row]);
        FO_UNROLL
        for (int row = 0; row < kRows; ++row) {
            decode(tensor.g_format, g[row]);
            add(row_of(span, row), g[row], lanes);
        }
    }

  private:
    FO_DEVICE static ThreadItems row_of(const ThreadItems& span, int row) {
        return {span.first + row * kLanes, span.step, span.low, span.high};
    }

    // The branch is outside the loop, where it would keep the compiler from interleaving the elements.
    FO_DEVICE void add(const ThreadItems& span, const T* g, double (*lanes)[kItemsPerThread]) const {
        T nonfinite = 0;
        const auto add_one = [&](int e) {
            const double term = gradient_terms<kType, kScaled>(prepare, g[e])[0];
            lanes[0][e] = combine(kType == NormType::kInfinity, lanes[0][e], term);
            nonfinite += prepare.scaled(g[e]) - prepare.scaled(g[e]);  // in T, as a conversion takes longer than a load
        };
        if (has_all<T>(span)) {
            FO_UNROLL
            for (int e = 0; e < kItemsPerThread; ++e) add_one(e);
        } else {
            FO_UNROLL
            for (int e = 0; e < kItemsPerThread; ++e)
                if (has<T>(span, e)) add_one(e);
        }
        lanes[1][0] = combine(kType == NormType::kInfinity, lanes[1][0], double(nonfinite));
    }
};

// The sum for the norm of each gradient with this type of norm, and whether the gradient is finite; with kScaled again,
// where squares have to be scaled.
template <class T, NormType kType, bool kScaled>
struct SumGradients : Body<kSumThreads, kSumThreads * kGradientTerms> {
    static constexpr const char* name = kScaled ? "scaled gradient norm" : "gradient norm";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const auto scale = [&](const TensorDesc& tensor, const KernelConstants<T>& constants) {
            return scale_of<kScaled>(arguments.workspace, tensor, constants);
        };
        sum_chunks<T, kGradientTerms, kType == NormType::kInfinity>(
            block, arguments,
            [&](const TensorDesc& tensor, const KernelConstants<T>& constants) {
                return constants.norm_type == kType && (!kScaled || scale(tensor, constants) != 1);
            },
            [&](const TensorDesc& tensor, const KernelConstants<T>& constants, std::int64_t begin, std::int32_t high) {
                sum_tiles<T, kGradientTerms, kType == NormType::kInfinity>(
                    block, high, GradientTerms<T, kType, kScaled>(tensor, constants, begin, scale(tensor, constants)));
            });
    }
};

// Return the terms of a rule's sums.  A rule with a before_reduce function already has constants of its own.
template <class R, class T>
FO_DEVICE inline ReduceTerms<R> reduce_terms_of(const Arguments& arguments, const TensorDesc& tensor,
                                                const KernelConstants<T>& constants) {
    return {kHasBeforeReduce<R> ? rule_of<R>(arguments, tensor, constants)
                                : *reinterpret_cast<const R*>(constants.rule)};
}

template <class R, class T>
struct RuleTerms {
    static constexpr int kRows = 1;

    const TensorDesc& tensor;
    const Prepare<T> prepare;
    const ReduceTerms<R> terms_of;
    const std::int64_t begin;

    FO_DEVICE RuleTerms(const Arguments& arguments, const TensorDesc& tensor, const KernelConstants<T>& constants,
                        std::int64_t begin)
        : tensor(tensor),
          prepare(prepare_of(arguments, tensor, constants)),
          terms_of(reduce_terms_of<R>(arguments, tensor, constants)),
          begin(begin) {}

    FO_DEVICE void operator()(const ThreadItems& span, double (*lanes)[kItemsPerThread]) const {
        T p[kItemsPerThread], g[kItemsPerThread];
        State<R, T> state(tensor, begin, tensor.sum_aligned16_mask);
        load_as_is<true>(tensor.p_format, tensor.p + begin * std::int64_t(item_size(tensor.p_format)), span,
                         tensor.sum_aligned16_mask & kAlignedP, p);
        load_as_is<true>(tensor.g_format, tensor.g + begin * std::int64_t(item_size(tensor.g_format)), span,
                         tensor.sum_aligned16_mask & kAlignedG, g);
        state.template load<true>(span);
        decode(tensor.p_format, p);
        decode(tensor.g_format, g);
        FO_UNROLL
        for (int e = 0; e < kItemsPerThread; ++e) {
            if (!has<T>(span, e)) continue;
            T x = p[e];
            const auto terms = apply(terms_of, x, prepare.gradient(g[e], p[e]), state.value, e, kStateOf<R>);
            FO_UNROLL
            for (int k = 0; k < R::sums; ++k) lanes[k][e] += terms[k];
        }
        state.template store<true>(terms_of, span);
    }
};

// The sums that a rule needs.
template <class R, class T>
struct Reduce : Body<kSumThreads, kSumThreads * R::sums> {
    static constexpr const char* name = "sums";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        if (is_skipped(arguments)) return;
        sum_chunks<T, R::sums, false>(
            block, arguments, [](const TensorDesc&, const KernelConstants<T>&) { return true; },
            [&](const TensorDesc& tensor, const KernelConstants<T>& constants, std::int64_t begin, std::int32_t high) {
                sum_tiles<T, R::sums, false>(block, high, RuleTerms<R, T>(arguments, tensor, constants, begin));
            });
    }
};

// What finish does with the partial sums of an array.
enum class Partials : std::uint8_t { kSkip, kAdd, kLargest };

// Combine the partial sums of each array as use_of(table, tensor) says.  Then call f(table, tensor, sum) in one
// thread.
template <int kThreads, class Block, class UseOf, class F>
FO_DEVICE inline void finish(Block& block, const Arguments& arguments, UseOf use_of, F f) {
    const TensorTable table(arguments);
    const std::uint32_t* begins = table.sum_begins();
    for (std::uint32_t i = block.index(); i < table.count(); i += block.count()) {
        const TensorDesc& tensor = table.tensor(i);
        const Partials use = use_of(table, tensor);
        const std::uint32_t count = begins[i + 1] - begins[i];
        const bool is_summed = count > 0 || tensor.size == 0;  // else it is rows that are only updated
        if (use == Partials::kSkip || !is_summed) continue;
        double* const partials = arguments.workspace.partials + std::size_t(begins[i]) * kMaxSums;
        add_pairwise(block, kThreads, {partials, count, kMaxSums, int(arguments.sums), 1, use == Partials::kLargest});
        block.each([&](int thread) {
            if (thread > 0) return;
            f(table, tensor, [=](std::uint32_t k) { return count > 0 ? partials[k] : 0.0; });
        });
    }
}

struct FinishSums : Body<256> {
    static constexpr const char* name = "sums of arrays";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        finish<kThreads>(
            block, arguments, [](const TensorTable&, const TensorDesc&) { return Partials::kAdd; },
            [&](const TensorTable&, const TensorDesc& tensor, auto sum) {
                for (std::uint32_t k = 0; k < arguments.sums; ++k)
                    arguments.workspace.sums[std::size_t(tensor.index) * kMaxSums + k] = sum(k);
            });
    }
};

// The sum for each gradient's norm, the factor of clip_norm, and the norm that remains.
template <class T, bool kScaled>
struct FinishGradients : Body<256> {
    static constexpr const char* name = kScaled ? "scaled gradient norms of arrays" : "gradient norms of arrays";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const Workspace& at = arguments.workspace;
        const auto use_of = [&](const TensorTable& table, const TensorDesc& tensor) {
            const KernelConstants<T>& constants = table.template constants<T>(tensor);
            if (kScaled && scale_of<kScaled>(at, tensor, constants) == 1) return Partials::kSkip;
            return constants.norm_type == NormType::kInfinity ? Partials::kLargest : Partials::kAdd;
        };
        const auto store = [&](const TensorTable& table, const TensorDesc& tensor, auto sum) {
            const KernelConstants<T>& constants = table.template constants<T>(tensor);
            const double norm = norm_of_sum(constants.norm_type, sum(0), scale_of<kScaled>(at, tensor, constants));
            const ClippedNorm clipped = clip_to_norm(norm, constants.clip_norm, constants.clip_eps);
            at.clips[tensor.index] = clipped.factor;
            at.clipped_norms[tensor.index] = clipped.norm;
            at.bounds[tensor.index] = {constants.clip_global_norm, constants.clip_eps};
            if (kScaled) return;
            at.sums[std::size_t(tensor.index) * kMaxSums] = sum(0);
            if (sum(1) != 0) *at.found_nonfinite = 1;
        };
        finish<kThreads>(block, arguments, use_of, store);
    }
};

// The factor of clip_global_norm.  One thread adds the squares one after another.  Here `tensors` is the number of all
// arrays of the model; the norm of an array without a gradient is 0.
struct ClipAll : Body<256, 1> {
    static constexpr const char* name = "norm of all gradients";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        const Workspace& at = arguments.workspace;
        block.phase([&](int thread) {
            if (thread > 0) return;
            const auto norm_of = [&](std::uint32_t i) { return at.clipped_norms[i]; };
            block.shared[0] = at.norm ? *at.norm : norm_in_order(arguments.norm_type, arguments.tensors, norm_of);
        });
        block.each([&](int thread) {
            for (std::uint32_t i = thread; i < arguments.tensors; i += kThreads)
                at.clips[i] *= clip_factor(at.bounds[i].bound, block.shared[0], at.bounds[i].eps);
        });
    }
};

// Replaces the `sums` sums of each array by those of all.  Here `tensors` is the number of all arrays of the model.
struct AddAll : Body<256, kMaxSums> {
    static constexpr const char* name = "sums of all arrays";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        double* const sums = arguments.workspace.sums;
        block.phase([&](int thread) {
            if (thread < int(arguments.sums))
                block.shared[thread] = add_in_order(
                    arguments.tensors, [&](std::uint32_t i) { return sums[std::size_t(i) * kMaxSums + thread]; });
        });
        block.each([&](int thread) {
            for (std::size_t i = thread; i < std::size_t(arguments.tensors) * kMaxSums; i += kThreads)
                if (i % kMaxSums < arguments.sums) sums[i] = block.shared[i % kMaxSums];
        });
    }
};

// Call f(tensor, rule) for each tensor, in a thread each, with a copy of the rule that becomes the array's own.
template <class R, class T, bool kIsOwn, class Block, class F>
FO_DEVICE inline void change_rules(Block& block, const Arguments& arguments, F f) {
    if (is_skipped(arguments)) return;
    const TensorTable table(arguments);
    block.each([&](int thread) {
        for (std::uint32_t i = block.index() * kRuleThreads + thread; i < table.count();
             i += block.count() * kRuleThreads) {
            const TensorDesc& tensor = table.tensor(i);
            const KernelConstants<T>& constants = table.template constants<T>(tensor);
            R rule = kIsOwn ? rule_of<R>(arguments, tensor, constants) : *reinterpret_cast<const R*>(constants.rule);
            f(tensor, rule);
            *reinterpret_cast<R*>(arguments.workspace.rules + std::size_t(tensor.index) * kRuleBytes) = rule;
        }
    });
}

template <class R>
FO_DEVICE inline double* const* scalar_state_of(const TensorDesc& tensor) {
    return pointers_of<double>(tensor) + R::state.size();
}

template <class R, class T>
struct BeforeReduce : Body<kRuleThreads> {
    static constexpr const char* name = "begin";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        change_rules<R, T, false>(block, arguments, [](const TensorDesc& tensor, R& rule) {
            rule.before_reduce(scalar_state_of<R>(tensor));
        });
    }
};

template <class R, class T>
struct Finalize : Body<kRuleThreads> {
    static constexpr const char* name = "finalize";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        change_rules<R, T, kHasBeforeReduce<R>>(block, arguments, [&](const TensorDesc& tensor, R& rule) {
            rule.finalize(arguments.workspace.sums + std::size_t(tensor.index) * kMaxSums, scalar_state_of<R>(tensor));
        });
    }
};

// Writes its arguments to device memory: an upload in the stream's order without a wait.
struct Put : Body<kPutThreads> {
    using Takes = UploadArguments;
    static constexpr const char* name = "upload";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const UploadArguments& arguments) const {
        const auto* from = reinterpret_cast<const Vector*>(arguments.bytes);
        auto* to = reinterpret_cast<Vector*>(arguments.to);
        block.each([&](int thread) {
            for (std::uint32_t i = block.index() * kThreads + thread; i < arguments.vectors;
                 i += block.count() * kThreads)
                to[i] = from[i];
        });
    }
};

}  // namespace fo::FO_TARGET
