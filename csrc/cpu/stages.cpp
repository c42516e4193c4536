#include "stages.h"

#include "../block_codes.h"
#include "../extra_bits.h"
#include "../prepare.h"
#include "convert.h"
#include "row_pieces.h"
#include "tile_sums.h"
#include "vectorize.h"

#include <algorithm>

namespace fo::cpu::FO_ISA {

using namespace FO_TARGET;

// Convert whole blocks, and return how many elements these have.
template <class T, class ConvertBlock>
Index in_blocks([[maybe_unused]] Format format, [[maybe_unused]] Index n, [[maybe_unused]] ConvertBlock convert) {
    Index done = 0;
    if constexpr (kConvertsBlocks<T>)
        if (converts_blocks<T>(format))
            for (; done + kBlock <= n; done += kBlock) convert(done);
    return done;
}

template <class T>
void decode(Format format, const void* from, void* to, Index n) {
    auto* target = static_cast<Cell<T>*>(to);
    const Index done =
        in_blocks<T>(format, n, [=](auto i) { load_block(format, element(from, format, i), target + i); });
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
    const Index done =
        in_blocks<T>(format, n, [=](auto i) { store_block(format, source + i, element(to, format, i)); });
    with_format(format, [=](auto kind) {
        using Kind = decltype(kind);
        auto* target = static_cast<Cell<typename Kind::type>*>(to);
        FO_IVDEP
        for (Index i = done; i < n; ++i) target[i].value = Kind::encode(source[i].value);
    });
}

// Call f with the type of a format of 16 bits.
template <class F>
void with_narrow(Format format, F f) {
    format == Format::kFloat16 ? f(Float16{}) : f(Bfloat16{});
}

// Call f with the type of a parameter's pair.
template <class F>
void with_pair(Format format, Extra kind, F f) {
    with_narrow(format, [&](auto narrow) {
        using Kind = decltype(narrow);
        kind == Extra::kBits8 ? f(SplitPair<Kind, std::int8_t, 8>{}) : f(SplitPair<Kind, std::int16_t, 16>{});
    });
}

template <class T>
Cell<T>* cells_at(void* data, Index begin) {
    return static_cast<Cell<T>*>(data) + begin;
}

float half_gap(Format format) {
    return format == Format::kFloat16 ? Narrow<Float16>::kHalfGap : Narrow<Bfloat16>::kHalfGap;
}

void decode_parameter(const Segment& segment, Index begin, void* to, Index n) {
    const ArrayRef& p = segment.p;
    const Extra kind = segment.extra.kind;
    if (kind == Extra::kNone || kind == Extra::kCompensation)
        decode<float>(p.format, element(p.data, p.format, begin), to, n);
    if (kind == Extra::kNone) return;
    if (kind == Extra::kCompensation) {
        float rest[kSumTile];
        decode<float>(p.format, element(segment.extra.data, p.format, begin), rest, n);
        auto* const sum = static_cast<float*>(to);
        const float most = half_gap(p.format);
        FO_IVDEP
        for (Index i = 0; i < n; ++i) sum[i] = add_rest(sum[i], rest[i], most);
        return;
    }
    auto* const target = static_cast<Cell<float>*>(to);
    with_pair(segment.p.format, segment.extra.kind, [&](auto pair) {
        using Kind = decltype(pair);
        const auto* const narrow = cells_at<std::uint16_t>(segment.p.data, begin);
        const auto* const low = cells_at<typename Kind::low_type>(segment.extra.data, begin);
        FO_IVDEP
        for (Index i = 0; i < n; ++i) target[i].value = Kind::decode(narrow[i].value, low[i].value);
    });
}

// Write words of random bits; the key is another one for each 2^32 of them.
void rounding_words(const RandomKey& key, std::uint64_t first, std::uint32_t* to, int n) {
    const Words own = random_words(key, first >> 32);
    const auto index = static_cast<std::uint32_t>(first);
    const int same = int(std::min<std::uint64_t>(std::uint64_t(n), (std::uint64_t(1) << 32) - index));
    FO_IVDEP
    for (int i = 0; i < same; ++i) to[i] = rounding_word(own, index + std::uint32_t(i));
    if (same < n) rounding_words(key, first + std::uint64_t(same), to + same, n - same);
}

struct LowerHalf {
    static std::uint16_t of(std::uint32_t word) { return std::uint16_t(word); }
};
struct UpperHalf {
    static std::uint16_t of(std::uint32_t word) { return std::uint16_t(word >> 16); }
};
template <class Code>
struct LowerNumber {
    static float of(std::uint32_t word) { return CodeRandom<Code>::lower(word); }
};
template <class Code>
struct UpperNumber {
    static float of(std::uint32_t word) { return CodeRandom<Code>::upper(word); }
};

// Write the halves of each group of eight words: the lower ones first, unless they are swapped.  Where this is inlined,
// GCC 12 does not vectorize it.
template <bool kSwapped, class Lower, class Upper, class T>
FO_NOINLINE void divide(const std::uint32_t* words, T* to, int groups) {
    using First = std::conditional_t<kSwapped, Upper, Lower>;
    using Second = std::conditional_t<kSwapped, Lower, Upper>;
    for (int group = 0; group < groups; ++group, words += 8, to += 16) {
        FO_IVDEP
        for (int lane = 0; lane < 8; ++lane) to[lane] = First::of(words[lane]);
        FO_IVDEP
        for (int lane = 0; lane < 8; ++lane) to[8 + lane] = Second::of(words[lane]);
    }
}

// Random bits for n elements, 16 for each.  The halves of words may be swapped.
class RandomHalves {
  public:
    RandomHalves(const RandomKey& key, std::uint64_t first, Index n)
        : skipped_(first % 16), groups_((int(skipped_) + int(n) + 15) / 16) {
        rounding_words(key, (first - skipped_) / 2, words_, 8 * groups_);
    }

    const std::uint16_t* halves(bool swapped) {
        swapped ? divide<true, LowerHalf, UpperHalf>(words_, halves_, groups_)
                : divide<false, LowerHalf, UpperHalf>(words_, halves_, groups_);
        return halves_ + skipped_;
    }

    // The same bits as random numbers for a code.
    template <class Code>
    const float* numbers(bool swapped) {
        swapped ? divide<true, LowerNumber<Code>, UpperNumber<Code>>(words_, numbers_, groups_)
                : divide<false, LowerNumber<Code>, UpperNumber<Code>>(words_, numbers_, groups_);
        return numbers_ + skipped_;
    }

  private:
    const std::uint64_t skipped_;
    const int groups_;
    alignas(64) std::uint32_t words_[kSumTile / 2 + 16];
    alignas(64) std::uint16_t halves_[kSumTile + 32];
    alignas(64) float numbers_[kSumTile + 32];
};

std::uint64_t place_of(const Segment& segment, Index begin) {
    return static_cast<std::uint64_t>(segment.first_element + begin);
}

template <class Kind>
void round_tile(const float* from, const std::uint16_t* random, Cell<std::uint16_t>* to, Index n) {
    FO_IVDEP
    for (Index i = 0; i < n; ++i) to[i].value = round_randomly<Kind>(from[i], random[i]);
}

void encode_randomly(const Segment& segment, const StepConstants& constants, Index begin, const void* from, Index n) {
    const RandomKey key{constants.seed, constants.t, segment.random_param, RandomUse::kRounding};
    RandomHalves random(key, place_of(segment, begin), n);
    with_narrow(segment.p.format, [&](auto narrow) {
        round_tile<decltype(narrow)>(static_cast<const float*>(from), random.halves(false),
                                     cells_at<std::uint16_t>(segment.p.data, begin), n);
    });
}

void encode_compensated(const Segment& segment, Index begin, const Cell<float>* from, Index n) {
    const Format format = segment.p.format;
    void* const narrow = element(segment.p.data, format, begin);
    float rest[kSumTile];
    encode<float>(format, from, narrow, n);
    decode<float>(format, narrow, rest, n);
    FO_IVDEP
    for (Index i = 0; i < n; ++i) rest[i] = rest_of(from[i].value, rest[i]);
    encode<float>(format, rest, element(segment.extra.data, format, begin), n);
}

void encode_parameter(const Segment& segment, const StepConstants& constants, Index begin, const void* from, Index n) {
    const auto* const source = static_cast<const Cell<float>*>(from);
    if (segment.extra.kind == Extra::kNone) return encode_randomly(segment, constants, begin, from, n);
    if (segment.extra.kind == Extra::kCompensation) return encode_compensated(segment, begin, source, n);
    with_pair(segment.p.format, segment.extra.kind, [&](auto pair) {
        using Kind = decltype(pair);
        auto* const narrow = cells_at<std::uint16_t>(segment.p.data, begin);
        auto* const low = cells_at<typename Kind::low_type>(segment.extra.data, begin);
        FO_IVDEP
        for (Index i = 0; i < n; ++i) {
            const auto encoded = Kind::encode(source[i].value);
            narrow[i].value = encoded.narrow;
            low[i].value = encoded.low;
        }
    });
}

// ---- compressed state

constexpr Index kPiece = 256;  // between prefetches where there are no blocks

template <class Code>
void decode_block(const Cell<typename Code::type>* from, float scale, float* to, Index n) {
    FO_IVDEP
    for (Index i = 0; i < n; ++i) to[i] = Code::decode(from[i].value, scale);
}

template <class Code>
void decode_blocks(const CompressionRef& ref, void* codes, Index begin, float* to, Index n, Ahead& ahead) {
    const auto* const from = cells_at<typename Code::type>(codes, begin);
    const float* const scales = ref.scales + begin / kCodeBlock;
    Index at = 0;
    for (; at + kCodeBlock <= n; at += kCodeBlock) {
        ahead.fetch();
        decode_block<Code>(from + at, scales[at / kCodeBlock], to + at, kCodeBlock);
    }
    if (at < n) decode_block<Code>(from + at, scales[at / kCodeBlock], to + at, n - at);
}

// Encode at most a tile of whole blocks.
template <class Code>
void encode_whole_blocks(const float* from, const float* random, Cell<typename Code::type>* to, float* scales,
                         Index blocks, Ahead& ahead) {
    float factors[kSumTile / kCodeBlock];
    for (Index block = 0; block < blocks; ++block) {
        const float* const x = from + block * kCodeBlock;
        std::int32_t largest = 0;
        for (int i = 0; i < kCodeBlock; ++i) largest = std::max(largest, bits<std::int32_t>(x[i]) & 0x7fffffff);
        if (largest >= 0x7f800000) [[unlikely]] {
            largest = 0;
            for (int i = 0; i < kCodeBlock; ++i) largest = std::max(largest, finite_magnitude(x[i]));
        }
        scales[block] = block_scale(largest);
    }
    for (Index block = 0; block < blocks; ++block) factors[block] = block_factor<Code>(scales[block]);
    for (Index block = 0; block < blocks; ++block) {
        const Index at = block * kCodeBlock;
        ahead.fetch();
        FO_IVDEP
        for (Index i = at; i < at + kCodeBlock; ++i)
            to[i].value = static_cast<typename Code::type>(Code::encode(from[i], factors[block], random[i]));
    }
}

template <class Code>
void encode_blocks(const float* from, const float* random, const CompressionRef& ref, void* codes, Index begin, Index n,
                   Ahead& ahead) {
    auto* const to = cells_at<typename Code::type>(codes, begin);
    float* const scales = ref.scales + begin / kCodeBlock;
    const Index blocks = n / kCodeBlock, at = blocks * kCodeBlock;
    encode_whole_blocks<Code>(from, random, to, scales, blocks, ahead);
    if (at == n) return;
    float rest[kCodeBlock] = {}, random_rest[kCodeBlock] = {};
    Cell<typename Code::type> codes_rest[kCodeBlock];
    std::copy(from + at, from + n, rest);
    std::copy(random + at, random + n, random_rest);
    encode_whole_blocks<Code>(rest, random_rest, codes_rest, scales + blocks, 1, ahead);
    std::copy(codes_rest, codes_rest + (n - at), to + at);
}

void decode_floats(const Segment& segment, std::size_t k, Index begin, float* to, Index n, Ahead& ahead) {
    const CompressionRef& ref = segment.compression[k];
    void* const codes = segment.state[k].data;
    switch (ref.kind) {
        case Compression::kSigned: return decode_blocks<SignedCode>(ref, codes, begin, to, n, ahead);
        case Compression::kNonNegative: return decode_blocks<NonNegativeCode>(ref, codes, begin, to, n, ahead);
        default: break;
    }
    for (Index at = 0; at < n; at += kPiece) {
        for (Index line = 0; line < kPiece; line += kCodeBlock) ahead.fetch();
        const void* const from = element(codes, Format::kBfloat16, begin + at);
        decode<float>(Format::kBfloat16, from, to + at, std::min(n - at, kPiece));
    }
}

void encode_floats(const Segment& segment, std::size_t k, Index begin, const float* from, RandomHalves& random, Index n,
                   Ahead& ahead) {
    const CompressionRef& ref = segment.compression[k];
    void* const codes = segment.state[k].data;
    const bool swapped = k % 2 == 1;
    switch (ref.kind) {
        case Compression::kSigned:
            return encode_blocks<SignedCode>(from, random.numbers<SignedCode>(swapped), ref, codes, begin, n, ahead);
        case Compression::kNonNegative:
            return encode_blocks<NonNegativeCode>(from, random.numbers<NonNegativeCode>(swapped), ref, codes, begin, n,
                                                  ahead);
        default: break;
    }
    const std::uint16_t* const halves = random.halves(swapped);
    auto* const to = cells_at<std::uint16_t>(codes, begin);
    for (Index at = 0; at < n; at += kPiece) {
        for (Index line = 0; line < kPiece; line += kCodeBlock) ahead.fetch();
        round_tile<Bfloat16>(from + at, halves + at, to + at, std::min(n - at, kPiece));
    }
}

void decode_state(const Segment& segment, std::size_t k, Index begin, void* to, Index n, Ahead& ahead) {
    if (segment.p.format != Format::kFloat64)
        return decode_floats(segment, k, begin, static_cast<float*>(to), n, ahead);
    alignas(64) float floats[kSumTile];
    decode_floats(segment, k, begin, floats, n, ahead);
    std::copy(floats, floats + n, static_cast<double*>(to));
}

// Each pair of arrays has the halves of the same random words.
void encode_state(const Segment& segment, const StepConstants& constants, std::uint32_t written, Index begin,
                  const void* const* from, Index n, Ahead& ahead) {
    for (std::uint32_t pair = 0; written >> 2 * pair != 0; ++pair) {
        if ((written >> 2 * pair & 3) == 0) continue;
        const auto use = static_cast<RandomUse>(static_cast<std::uint32_t>(RandomUse::kState) + pair);
        RandomHalves random({0, constants.t, segment.random_param, use}, place_of(segment, begin), n);
        for (std::uint32_t k = 2 * pair; k < 2 * pair + 2; ++k) {
            if ((written >> k & 1) == 0) continue;
            if (segment.p.format != Format::kFloat64) {
                encode_floats(segment, k, begin, static_cast<const float*>(from[k]), random, n, ahead);
                continue;
            }
            alignas(64) float floats[kSumTile];
            const auto* const doubles = static_cast<const double*>(from[k]);
            std::transform(doubles, doubles + n, floats, [](double x) { return float(x); });
            encode_floats(segment, k, begin, floats, random, n, ahead);
        }
    }
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
const Cell<T>* cells_of(const void* array) {
    return static_cast<const Cell<T>*>(array);
}

template <class T>
void begin_masked(const StepConstants& constants, const void* p, MaskedTile<T>& tile, bool from_zero, Index n) {
    const auto bytes = static_cast<std::size_t>(n) * sizeof(T);
    std::memcpy(tile.p, p, bytes);
    if (constants.decay != 0) decay_parameter<T>(constants, tile.p, n);
    tile.from_zero = from_zero;
    if (from_zero)
        std::memset(tile.moved, 0, bytes);
    else
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
    const auto *before = cells_of<T>(tile.p), *moved = cells_of<T>(tile.moved), *prepared = cells_of<T>(g);
    auto* param = static_cast<Cell<T>*>(p);
    const auto mask = [finish, before, moved, prepared, param, n]<bool kFromZero>(std::bool_constant<kFromZero>) {
        FO_IVDEP
        for (Index i = 0; i < n; ++i)
            param[i].value = finish.template masked<kFromZero>(before[i].value, moved[i].value, prepared[i].value);
    };
    if (finish.masks) tile.from_zero ? mask(std::true_type()) : mask(std::false_type());
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

namespace {

// Whether a sum of these terms is finite exactly if all elements are: in float64 those of float32 do not overflow.
template <class T>
bool sum_tells_nonfinite(const Prepare<T>& prepare) {
    return sizeof(T) == 4 && prepare.bound == T(INFINITY);
}

// The terms of the norm of a segment's gradient in each tile from first to last; a Reduce of loop.h.
template <class T, NormType kType, bool kScaled = false>
void reduce_gradient(const Segment& segment, const Gradient& gradient, const StepConstants& constants, Index first,
                     Index last, double* sums) {
    constexpr bool kLargest = kType == NormType::kInfinity;
    const Prepare<T> prepare(constants, gradient);
    const bool in_place = gradient.format == kComputeFormat<T> && !gradient.axes, tells = sum_tells_nonfinite(prepare);
    alignas(64) Cell<T> copy[kSumTile];
    for_tiles(segment, first, last, sums, [&](Index begin, Index n, double* out) {
        if (!in_place) decode_gradient<T>(gradient, begin, copy, n);
        const Cell<T>* const g = in_place ? cells_of<T>(gradient.data) + begin : copy;
        if (!tells || kScaled)
            return sum_tile<kGradientTerms, kLargest>(
                [g, prepare](Index i) { return gradient_terms<kType, kScaled>(prepare, g[i].value); }, n, out);
        sum_tile<1, kLargest>(
            [g, prepare](Index i) { return std::array{norm_term<kType>(double(prepare.scaled(g[i].value)))}; }, n, out);
        out[1] = out[0] - out[0];
    });
}

}  // namespace

// The functions of stages.h in one compute type.
#define FO_STAGES(T)                                                                                                  \
    template void decode<T>(Format, const void*, void*, Index);                                                       \
    template void encode<T>(Format, const void*, void*, Index);                                                       \
    template void decode_along<T>(const ArrayRef&, Index, void*, Index);                                              \
    template void decode_gradient<T>(const Gradient&, Index, void*, Index);                                           \
    template void decode_rows<T>(const Gradient&, Index, void*, Index);                                               \
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

const GradientLoops kGradientLoops{{&reduce_gradient<float, NormType::kTwo>, &reduce_gradient<float, NormType::kOne>,
                                    &reduce_gradient<float, NormType::kInfinity>},
                                   {&reduce_gradient<double, NormType::kTwo>, &reduce_gradient<double, NormType::kOne>,
                                    &reduce_gradient<double, NormType::kInfinity>},
                                   &reduce_gradient<double, NormType::kTwo, true>,
                                   &decode_rows<float>,
                                   &decode_rows<double>,
                                   &decode_gradient<float>,
                                   &decode_gradient<double>};

const StorageLoops kStorageLoops{&decode_parameter, &encode_parameter, &decode_state, &encode_state};

namespace {

// Add the squares of a block of a matrix to the sums of its rows and columns.
template <class T>
void add_squares(const ArrayRef& block, Index row_stride, Index rows, Index n, double* row_sums, Index sums_stride,
                 double* column_sums) {
    alignas(64) Cell<T> copy[kSumTile];
    for (Index row = 0; row < rows; ++row) {
        const void* from = element(block.data, block.format, row * row_stride);
        const auto* x = static_cast<const Cell<T>*>(from);
        if (block.format != kComputeFormat<T>) {
            decode<T>(block.format, from, copy, n);
            x = copy;
        }
        sum_tile<1>(
            [x, column_sums](Index i) {
                const double wide(x[i].value), square = wide * wide;
                column_sums[i] += square;
                return std::array{square};
            },
            n, row_sums + row * sums_stride);
    }
}

}  // namespace

const AxisLoops kAxisLoops{&add_squares<float>, &add_squares<double>};

}  // namespace fo::cpu::FO_ISA
