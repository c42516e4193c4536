// The kernels for arrays that an update does not take as they are stored: parameters of 16 bits that have extra bits or
// are rounded randomly, and compressed state.  A thread decodes its elements, updates them and encodes them again.  The
// threads that share a block of codes find its largest element by exchanges between registers.
//
// Main types: RandomKeys, of the random bits of an array; StagedParameter and StagedState, a thread's elements;
// UpdateStaged and ReduceStaged, the kernels.  Chunks begin at element 0 and consist of whole blocks.
#pragma once

#include "../block_codes.h"
#include "../extra_bits.h"
#include "reduce.h"

namespace fo::FO_TARGET {

static_assert(kChunk % kCodeBlock == 0 && kSumTile % kCodeBlock == 0);

// Whether the rule needs the kernels: there are no float64 parameters with extra bits, and numbers of rows stay native.
// Sums of float64 with four state arrays would need more registers than there are.
template <class R, class T>
inline constexpr bool kStages =
    !kHasRowState<R> && (sizeof(T) == 4 || (R::state.size() > 0 && (kSums<R> == 0 || R::state.size() < 4)));

// The addresses of the scales of each state array's codes follow the description.
template <class R>
FO_DEVICE inline const StagedDesc& staged_of(const TensorDesc& tensor) {
    const Axes* const axes = axes_of<R>(tensor);
    return *reinterpret_cast<const StagedDesc*>(axes + (kBroadcasts<R> ? R::state.size() : 0));
}

// Load bytes; they are decoded later.
template <bool kEdges, class T, int kItems>
FO_DEVICE inline void load_bytes(const char* array, const ThreadItems& span, bool aligned16, T (&x)[kItems]) {
    using Group = std::conditional_t<kTogether<T, kItems> == 2, std::uint16_t, std::uint32_t>;
    const auto at = [=](int e) { return array + place<T>(span, e); };
    Vector vector{};
    for_groups<kEdges, T, kItems>(
        span, aligned16, [&](int e) { vector.word[e / 4] |= std::uint32_t(load<Group>(at(e))) << e % 4 * 8; },
        [&](int e) { vector.word[e / 4] |= std::uint32_t(load<std::uint8_t>(at(e))) << e % 4 * 8; });
    keep_bits(vector, x);
}

FO_DEVICE inline std::uint8_t byte_of(const Vector& vector, int e) {
    return std::uint8_t(vector.word[e / 4] >> e % 4 * 8);
}

template <bool kEdges, class T, int kItems>
FO_DEVICE inline void store_bytes(char* array, const ThreadItems& span, bool aligned16, const Vector& vector) {
    using Group = std::conditional_t<kTogether<T, kItems> == 2, std::uint16_t, std::uint32_t>;
    const auto at = [=](int e) { return array + place<T>(span, e); };
    for_groups<kEdges, T, kItems>(
        span, aligned16, [&](int e) { store(at(e), Group(vector.word[e / 4] >> e % 4 * 8)); },
        [&](int e) { store(at(e), byte_of(vector, e)); });
}

// Move each element to the place before, and the first one to the last.
template <class X, int kItems>
FO_DEVICE inline void rotate(X (&x)[kItems]) {
    const X first = x[0];
    FO_UNROLL
    for (int e = 1; e < kItems; ++e) x[e - 1] = x[e];
    x[kItems - 1] = first;
}

// Call f(x, y) for the elements of two arrays, one after another.  The loop is not unrolled, so that the many
// conversions need little code; the arrays rotate, since registers have no indices.
template <class X, class Y, int kItems, class F>
FO_DEVICE inline void for_each_in_turn(X (&x)[kItems], Y (&y)[kItems], F f) {
    FO_NO_UNROLL
    for (int turn = 0; turn < kItems; ++turn) {
        f(x[0], y[0]);
        rotate(x);
        rotate(y);
    }
}

// Pack the lower halves of words, or their lower bytes.
template <int kItems>
FO_DEVICE inline Vector pack_halves(const std::uint32_t (&words)[kItems]) {
    Vector packed{};
    FO_UNROLL
    for (int e = 0; e < kItems; ++e) packed.word[e / 2] |= (words[e] & 0xffff) << e % 2 * 16;
    return packed;
}

template <int kItems>
FO_DEVICE inline Vector pack_bytes(const std::uint32_t (&words)[kItems]) {
    Vector packed{};
    FO_UNROLL
    for (int e = 0; e < kItems; ++e) packed.word[e / 4] |= (words[e] & 0xff) << e % 4 * 8;
    return packed;
}

// The keys of an array's random bits, in a block's shared memory: that of the parameter's rounding, and those of the
// state arrays.
template <class R>
class RandomKeys {
  public:
    static constexpr int kCount = int(R::state.size()) + 1;
    static constexpr int kDoubles = kCount * int(sizeof(Words) / sizeof(double));

    // Write the keys for the chunk that begins at an element, of a multiple of kChunk.
    template <class Block, class T>
    FO_DEVICE RandomKeys(Block& block, double* memory, const StagedDesc& staged, const KernelConstants<T>& constants,
                         std::int64_t begin)
        : words_(reinterpret_cast<Words*>(memory)) {
        const std::uint64_t element = staged.rows ? 0 : std::uint64_t(begin);
        block.phase([&](int thread) {
            if (thread >= kCount) return;
            const bool is_rounding = thread == 0;
            const auto use = is_rounding ? RandomUse::kRounding
                                         : RandomUse(std::uint32_t(RandomUse::kState) + std::uint32_t(thread) - 1);
            words_[thread] =
                rounding_key({is_rounding ? constants.seed : 0, constants.t, staged.random_param, use}, element);
        });
    }

    FO_DEVICE const Words& rounding() const { return words_[0]; }
    FO_DEVICE const Words& of_state(int k) const { return words_[1 + k]; }

  private:
    Words* words_;
};

// The places of a thread's elements in their parameter, which select the random bits.
template <int kItems>
class RandomItems {
  public:
    RandomItems() = default;

    template <class T>
    FO_DEVICE RandomItems(const StagedDesc& staged, std::int64_t begin, const ThreadItems& span, T) {
        FO_UNROLL
        for (int e = 0; e < kItems; ++e) element_[e] = begin + place<T>(span, e);
        if (!staged.rows) return;
        FO_NO_UNROLL
        for (int e = 0; e < kItems; ++e) {
            if (has<T>(span, e)) element_[0] = place_in_parameter(staged, element_[0]);
            rotate(element_);
        }
    }

    // Write the random bits of each element, 16 of them.
    FO_DEVICE void draw(const Words& key, std::uint32_t (&halves)[kItems]) const {
        FO_UNROLL
        for (int e = 0; e < kItems; ++e) halves[e] = rounding_bits(key, std::uint64_t(element_[e]));
    }

  private:
    FO_DEVICE static std::int64_t place_in_parameter(const StagedDesc& staged, std::int64_t element) {
        const std::int64_t row = quotient(element, staged.row_size);
        const auto own = load<std::int64_t>(reinterpret_cast<const char*>(staged.rows + row));
        return (own - row) * staged.row_size + element;
    }

    std::int64_t element_[kItems];
};

// A thread's elements of a parameter, counted from element `begin`.
template <class T, int kItems>
class StagedParameter {
  public:
    FO_DEVICE StagedParameter(const TensorDesc& tensor, const StagedDesc& staged, std::int64_t begin,
                              unsigned aligned16)
        : format_(tensor.p_format),
          kind_(staged.extra_kind),
          aligned16_(aligned16 & kAlignedP),
          rest_aligned16_(aligned16 & kAlignedExtra),
          p_(tensor.p + begin * std::int64_t(item_size(tensor.p_format))),
          rest_at_(staged.extra + begin * std::int64_t(item_size(staged.extra_kind))) {}

    FO_DEVICE void load(const ThreadItems& span) {
        if (format_ == kComputeFormat<T>) return load_own<true>(p_, span, aligned16_, value);
        if constexpr (kIsFloat) {
            set_to_zero(rest_);
            load_halves<true>(p_, span, aligned16_, value);
            if (kind_ == Extra::kBits8)
                load_bytes<true>(rest_at_, span, rest_aligned16_, rest_);
            else if (kind_ != Extra::kNone)
                load_halves<true>(rest_at_, span, rest_aligned16_, rest_);
        }
    }

    FO_DEVICE void decode() {
        if constexpr (kIsFloat) {
            if (format_ == Format::kFloat32) return;
            const Vector narrow = bits_of(value), low = bits_of(rest_);
            std::uint32_t lows[kItems];
            FO_UNROLL
            for (int e = 0; e < kItems; ++e) {
                value[e] = bits<float>(std::uint32_t(half_of(narrow, e)));
                lows[e] = kind_ == Extra::kBits8 ? byte_of(low, e) : half_of(low, e);
            }
            if (kind_ == Extra::kBits8 || kind_ == Extra::kBits16)
                with_pair(format_, kind_, [&](auto pair) { decode_pairs<decltype(pair)>(lows); });
            else
                with_narrow(format_, [&](auto kind) { decode_numbers<decltype(kind)>(lows); });
        }
    }

    // `rounds`: parameters of 16 bits without extra bits are rounded by random bits.
    FO_DEVICE void store(const ThreadItems& span, bool rounds, const RandomItems<kItems>& random, const Words& key) {
        if (format_ == kComputeFormat<T>) return store_own<true>(p_, span, aligned16_, value);
        if constexpr (kIsFloat) {
            std::uint32_t narrow[kItems], rest[kItems];
            random.draw(key, rest);
            FO_UNROLL
            for (int e = 0; e < kItems; ++e) narrow[e] = bits<std::uint32_t>(value[e]);
            if (kind_ == Extra::kBits8 || kind_ == Extra::kBits16)
                with_pair(format_, kind_, [&](auto pair) { encode_pairs<decltype(pair)>(narrow, rest); });
            else
                with_narrow(format_, [&](auto kind) { encode_numbers<decltype(kind)>(narrow, rest, rounds); });
            store_halves<true, T, kItems>(p_, span, aligned16_, pack_halves(narrow));
            if (kind_ == Extra::kBits8)
                store_bytes<true, T, kItems>(rest_at_, span, rest_aligned16_, pack_bytes(rest));
            else if (kind_ != Extra::kNone)
                store_halves<true, T, kItems>(rest_at_, span, rest_aligned16_, pack_halves(rest));
        }
    }

    T value[kItems];

  private:
    static constexpr bool kIsFloat = sizeof(T) == 4;

    template <class Kind>
    FO_DEVICE void decode_pairs(std::uint32_t (&lows)[kItems]) {
        for_each_in_turn(value, lows, [](float& x, std::uint32_t low) {
            x = Kind::decode(std::uint16_t(bits<std::uint32_t>(x)), typename Kind::low_type(low));
        });
    }

    template <class Kind>
    FO_DEVICE void decode_numbers(std::uint32_t (&rests)[kItems]) {
        const bool is_compensated = kind_ == Extra::kCompensation;
        for_each_in_turn(value, rests, [=](float& x, std::uint32_t rest) {
            const auto decode = [](std::uint32_t half) { return Kind::template decode<float>(std::uint16_t(half)); };
            x = decode(bits<std::uint32_t>(x));
            if (is_compensated) x = add_rest(x, decode(rest), Narrow<Kind>::kHalfGap);
        });
    }

    // Encode numbers, given as patterns.
    template <class Kind>
    FO_DEVICE void encode_pairs(std::uint32_t (&numbers)[kItems], std::uint32_t (&lows)[kItems]) const {
        for_each_in_turn(numbers, lows, [](std::uint32_t& x, std::uint32_t& low) {
            const auto encoded = Kind::encode(bits<float>(x));
            x = encoded.narrow;
            low = std::uint32_t(encoded.low);
        });
    }

    // `rests` are random bits, which a compensation replaces.
    template <class Kind>
    FO_DEVICE void encode_numbers(std::uint32_t (&numbers)[kItems], std::uint32_t (&rests)[kItems], bool rounds) const {
        const bool is_compensated = kind_ == Extra::kCompensation;
        for_each_in_turn(numbers, rests, [=](std::uint32_t& x, std::uint32_t& rest) {
            const float number = bits<float>(x);
            x = rounds && !is_compensated ? round_randomly<Kind>(number, std::uint16_t(rest)) : Kind::encode(number);
            if (is_compensated) rest = Kind::encode(rest_of(number, Kind::template decode<float>(std::uint16_t(x))));
        });
    }

    const Format format_;
    const Extra kind_;
    const bool aligned16_, rest_aligned16_;
    char* const p_;
    char* const rest_at_;
    T rest_[kItems];
};

// Where the state arrays of a tensor are, counted from element `begin` of each.
template <class R, class T>
class StagedArrays {
  public:
    FO_DEVICE StagedArrays(const TensorDesc& tensor, std::int64_t begin, unsigned aligned16)
        : arrays_(pointers_of(tensor)),
          axes_(axes_of<R>(tensor)),
          staged_(staged_of<R>(tensor)),
          begin_(begin),
          aligned16_mask_(aligned16 / kAlignedState) {}

    FO_DEVICE Compression kind(int k) const { return staged_.compression[k]; }
    FO_DEVICE bool is_aligned16(int k) const { return aligned16_mask_ >> k & 1; }

    FO_DEVICE bool is_broadcast(int k) const {
        if constexpr (kBroadcasts<R>) return axes_[k].count > 0;
        return false;
    }

    template <int kItems>
    FO_DEVICE void load_broadcast_array(int k, const ThreadItems& span, T (&x)[kItems]) const {
        load_broadcast<true>(arrays_[k], axes_[k], begin_, span, x);
    }

    FO_DEVICE char* at(int k) const {
        const std::size_t code = code_size(kind(k));
        return arrays_[k] + begin_ * std::int64_t(code > 0 ? code : sizeof(T));
    }

    // The scale of the block of an element.
    FO_DEVICE char* scale(int k, std::int32_t element) const {
        const std::int64_t block = (begin_ + element) / kCodeBlock;
        return reinterpret_cast<char* const*>(&staged_ + 1)[k] + block * std::int64_t(sizeof(float));
    }

  private:
    char* const* arrays_;
    const Axes* axes_;
    const StagedDesc& staged_;
    const std::int64_t begin_;
    const unsigned aligned16_mask_;
};

// The largest magnitude of each state array in the block of a thread's elements, as a pattern.
template <class R>
struct Largest {
    std::int32_t of[R::state.size() > 0 ? R::state.size() : 1] = {};
};

// A thread's elements of all state arrays.  They are in one block of codes.
template <class R, class T, int kItems>
class StagedState {
    using Arrays = StagedArrays<R, T>;

  public:
    // Load the arrays as they are stored.
    FO_DEVICE void load(const Arrays& arrays, const ThreadItems& span) {
        FO_UNROLL
        for (int k = 0; k < kCount; ++k) {
            set_to_zero(value[k]);  // codes take less space
            scale_[k] = 0;
            if (arrays.is_broadcast(k)) {
                arrays.load_broadcast_array(k, span, value[k]);
            } else if (arrays.kind(k) == Compression::kNone) {
                load_own<true>(arrays.at(k), span, arrays.is_aligned16(k), value[k]);
            } else if (arrays.kind(k) == Compression::kRounded) {
                load_halves<true>(arrays.at(k), span, arrays.is_aligned16(k), value[k]);
            } else {
                load_bytes<true>(arrays.at(k), span, arrays.is_aligned16(k), value[k]);
                if (!is_empty(span)) scale_[k] = FO_TARGET::load<float>(arrays.scale(k, span.first));
            }
        }
    }

    FO_DEVICE void decode(const Arrays& arrays) {
        FO_NO_UNROLL
        for (int k = 0; k < kCount; ++k) {
            const Compression kind = arrays.kind(k);
            if (kind == Compression::kRounded)
                decode_halves<Bfloat16>(value[0]);
            else if (kind == Compression::kSigned)
                decode_codes<SignedCode>();
            else if (kind == Compression::kNonNegative)
                decode_codes<NonNegativeCode>();
            rotate_arrays();
            rotate(scale_);
        }
    }

    FO_DEVICE void rotate_all() {
        FO_UNROLL
        for (int k = 0; k < kCount; ++k) rotate(value[k]);
    }

    FO_DEVICE void flush() {
        FO_UNROLL
        for (int k = 0; k < kCount; ++k) flush_all(value[k]);
    }

    // Raise the largest magnitudes to those of the thread's elements of the arrays that an F writes and that consist of
    // blocks.
    template <class F>
    FO_DEVICE void find_largest(const Arrays& arrays, const ThreadItems& span, Largest<R>& largest) const {
        FO_UNROLL
        for (int k = 0; k < kCount; ++k) {
            if (!(kWritten<F> >> k & 1) || !has_blocks(arrays.kind(k))) continue;
            FO_UNROLL
            for (int e = 0; e < kItems; ++e) {
                const std::int32_t magnitude = finite_magnitude(float(value[k][e]));
                if (has<T>(span, e) && magnitude > largest.of[k]) largest.of[k] = magnitude;
            }
        }
    }

    // Store the arrays that an F writes, and with `flushes` all that are not compressed.  The largest magnitudes are
    // those of whole blocks.
    template <class F>
    FO_DEVICE void store(const Arrays& arrays, const ThreadItems& span, Largest<R>& largest, bool flushes,
                         const RandomItems<kItems>& random, const RandomKeys<R>& keys) {
        FO_NO_UNROLL
        for (int k = 0; k < kCount; ++k) {
            const bool is_written = kWritten<F> >> k & 1;
            if (arrays.kind(k) == Compression::kNone) {
                if ((is_written || flushes) && !arrays.is_broadcast(k))
                    store_own<true>(arrays.at(k), span, arrays.is_aligned16(k), value[0]);
            } else if (is_written) {
                encode_and_store(k, arrays, span, largest.of[0], random, keys);
            }
            rotate_arrays();
            rotate(largest.of);
        }
    }

    T value[R::state.size() + 1][kItems] = {};

  private:
    static constexpr int kCount = int(R::state.size());

    // Let array 0 be the next one, and the last one the first: after kCount turns each is in its place.
    FO_DEVICE void rotate_arrays() {
        FO_UNROLL
        for (int e = 0; e < kItems; ++e) {
            const T first = value[0][e];
            FO_UNROLL
            for (int k = 1; k < kCount; ++k) value[k - 1][e] = value[k][e];
            if constexpr (kCount > 0) value[kCount - 1][e] = first;
        }
    }

    // A bit for each array that an F writes.
    template <class F>
    static constexpr unsigned kWritten = []<std::size_t... S>(std::index_sequence<S...>) {
        [[maybe_unused]] const std::index_sequence<S..., sizeof...(S), sizeof...(S) + 1> all;
        return (0u | ... | (unsigned(access_at<F, T, S + 2>(all) == Access::kWrite) << S));
    }(kStateOf<R>);

    template <class Code>
    FO_DEVICE void decode_codes() {
        const Vector codes = bits_of(value[0]);
        FO_UNROLL
        for (int e = 0; e < kItems; ++e)
            value[0][e] = T(Code::decode(typename Code::type(byte_of(codes, e)), scale_[0]));
    }

    // Array k is the first one.
    FO_DEVICE void encode_and_store(int k, const Arrays& arrays, const ThreadItems& span, std::int32_t largest,
                                    const RandomItems<kItems>& random, const RandomKeys<R>& keys) const {
        std::uint32_t halves[kItems];
        random.draw(keys.of_state(k), halves);
        if (arrays.kind(k) == Compression::kRounded) {
            FO_UNROLL
            for (int e = 0; e < kItems; ++e)
                halves[e] = round_randomly<Bfloat16>(float(value[0][e]), std::uint16_t(halves[e]));
            return store_halves<true, T, kItems>(arrays.at(k), span, arrays.is_aligned16(k), pack_halves(halves));
        }
        const float scale = block_scale(largest);
        if (arrays.kind(k) == Compression::kSigned)
            encode_codes<SignedCode>(scale, halves);
        else
            encode_codes<NonNegativeCode>(scale, halves);
        store_bytes<true, T, kItems>(arrays.at(k), span, arrays.is_aligned16(k), pack_bytes(halves));
        if (span.first % kCodeBlock == 0 && !is_empty(span)) FO_TARGET::store(arrays.scale(k, span.first), scale);
    }

    // Replace random bits by codes.
    template <class Code>
    FO_DEVICE void encode_codes(float scale, std::uint32_t (&halves)[kItems]) const {
        const float factor = block_factor<Code>(scale);
        FO_UNROLL
        for (int e = 0; e < kItems; ++e)
            halves[e] = std::uint32_t(Code::encode(float(value[0][e]), factor, CodeRandom<Code>::of(halves[e])));
    }

    float scale_[kCount > 0 ? kCount : 1] = {};
};

// Elements that a thread of an update has at a time: those of a warp are a block.
inline constexpr int kStagedItems = 2;

// The update of chunks of one array.
template <class R, class T>
class StagedChunk {
    static constexpr int kItems = kStagedItems;
    using F = Prepared<R, T>;

  public:
    struct Items {
        StagedState<R, T, kItems> state;
        Largest<R> largest;
        RandomItems<kItems> random;
    };

    FO_DEVICE StagedChunk(const Arguments& arguments, const TensorDesc& tensor, const KernelConstants<T>& constants,
                          std::int64_t begin, const RandomKeys<R>& keys)
        : arguments_(arguments),
          tensor_(tensor),
          staged_(staged_of<R>(tensor)),
          constants_(constants),
          keys_(keys),
          begin_(begin),
          arrays_(tensor, begin, tensor.aligned16_mask) {}

    FO_DEVICE bool counts() const { return arguments_.workspace.counts; }
    FO_DEVICE bool has_blocks_at(int k) const { return has_blocks(arrays_.kind(k)); }

    // Update a thread's elements and store them, except for the state.  If the launch counts the elements whose step
    // agrees with the gradient, store nothing and return how many do.
    FO_DEVICE std::uint32_t update(Items& items, const ThreadItems& span) const {
        StagedState<R, T, kItems>& state = items.state;
        const bool averages = constants_.prepare.averages;
        char* const average_at = tensor_.average + begin_ * std::int64_t(sizeof(T));
        T g[kItems], average[kItems];
        StagedParameter<T, kItems> p(tensor_, staged_, begin_, tensor_.aligned16_mask);
        if (averages) load_own<true>(average_at, span, tensor_.aligned16_mask & kAlignedAverage, average);
        p.load(span);
        load_as_is<true>(tensor_.g_format, tensor_.g + begin_ * std::int64_t(item_size(tensor_.g_format)), span,
                         tensor_.aligned16_mask & kAlignedG, g);
        state.load(arrays_, span);
        p.decode();
        decode(tensor_.g_format, g);
        state.decode(arrays_);

        const F f = prepared_of<R>(arguments_, tensor_, constants_);
        const Finish<T> finish = finish_of(arguments_, tensor_, constants_);
        std::uint32_t agreeing = 0;
        FO_NO_UNROLL
        for (int e = 0; e < kItems; ++e) {
            if (move(f, finish, p.value[0], g[0], state.value, 0) && has<T>(span, e)) ++agreeing;
            rotate(p.value);
            rotate(g);
            state.rotate_all();
        }
        if (counts()) return agreeing;

        if (tensor_.copy) store_copy<true>(tensor_.copy_format, tensor_.copy + begin_ * 2, span, p.value);
        if (averages) {
            FO_UNROLL
            for (int e = 0; e < kItems; ++e) average[e] = f.prepare.averaged(average[e], p.value[e]);
            if (f.prepare.flushes) flush_all(average);
            store_own<true>(average_at, span, tensor_.aligned16_mask & kAlignedAverage, average);
        }
        if (f.prepare.flushes) state.flush();
        items.random = RandomItems<kItems>(staged_, begin_, span, T());
        p.store(span, constants_.rounds_randomly, items.random, keys_.rounding());
        items.largest = {};
        state.template find_largest<F>(arrays_, span, items.largest);
        return 0;
    }

    FO_DEVICE void store_state(Items& items, const ThreadItems& span) const {
        items.state.template store<F>(arrays_, span, items.largest, constants_.prepare.flushes, items.random, keys_);
    }

  private:
    const Arguments& arguments_;
    const TensorDesc& tensor_;
    const StagedDesc& staged_;
    const KernelConstants<T>& constants_;
    const RandomKeys<R>& keys_;
    const std::int64_t begin_;
    const StagedArrays<R, T> arrays_;
};

// Let the neighbouring threads that share a block have its largest magnitudes.
template <int kThreads, class R, class Block, class Registers, class HasBlocks>
FO_DEVICE inline void exchange_largest(Block& block, Registers& items, HasBlocks has_blocks) {
    FO_UNROLL
    for (int k = 0; k < int(R::state.size()); ++k)
        if (has_blocks(k))
            block.template find_largest<kThreads>(items, [=](auto& own) -> std::int32_t& { return own.largest.of[k]; });
    block.sync_neighbors();
}

// A warp has a block of codes at a time.
template <class R, class T>
struct UpdateStaged {
    using Takes = Arguments;
    static constexpr const char* name = "update of staged arrays";
    static constexpr int kThreads = kUpdateThreads;
    static constexpr int kBlocks = kUpdateBlocks<R, T>;
    static constexpr int kShared = RandomKeys<R>::kDoubles;

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        if (is_skipped(arguments)) return;
        for_chunks(block, arguments,
                   [&](const TensorTable& table, const TensorDesc& tensor, std::int64_t begin, std::int32_t,
                       std::int32_t high) {
                       const KernelConstants<T>& constants = table.template constants<T>(tensor);
                       const RandomKeys<R> keys(block, block.shared, staged_of<R>(tensor), constants, begin);
                       const StagedChunk<R, T> chunk(arguments, tensor, constants, begin, keys);
                       for (std::int32_t first = 0; first < high; first += kThreads * kStagedItems)
                           update(block, arguments.workspace, chunk, first, high, tensor.index);
                       block.phase([](int) {});  // the keys are no longer read
                   });
    }

  private:
    template <class Block>
    FO_DEVICE static void update(Block& block, const Workspace& workspace, const StagedChunk<R, T>& chunk,
                                 std::int32_t first, std::int32_t high, std::uint32_t index) {
        const auto span = [=](int thread) { return ThreadItems{first + thread * kStagedItems, 0, 0, high}; };
        typename Block::template Registers<typename StagedChunk<R, T>::Items> items(block);
        block.each([&](int thread) {
            const std::uint32_t agreeing = chunk.update(items[thread], span(thread));
            if (agreeing > 0) block.add(workspace.agreeing[index], agreeing);
        });
        if (chunk.counts()) return;
        exchange_largest<kCodeBlock / kStagedItems, R>(block, items, [&](int k) { return chunk.has_blocks_at(k); });
        block.each([&](int thread) { chunk.store_state(items[thread], span(thread)); });
    }
};

// The sums that a rule needs.  A block of codes is two rows of four threads, which are loaded together.
template <class R, class T>
class StagedSums {
    static constexpr int kRows = kCodeBlock / kLanes;
    using F = ReduceTerms<R>;

  public:
    struct Items {
        StagedState<R, T, kItemsPerThread> state[kRows];
        Largest<R> largest;
        double lanes[R::sums][kItemsPerThread] = {};
    };

    FO_DEVICE StagedSums(const Arguments& arguments, const TensorDesc& tensor, const KernelConstants<T>& constants,
                         std::int64_t begin, const RandomKeys<R>& keys)
        : tensor_(tensor),
          staged_(staged_of<R>(tensor)),
          prepare_(prepare_of(arguments, tensor, constants)),
          terms_of_(reduce_terms_of<R>(arguments, tensor, constants)),
          keys_(keys),
          begin_(begin),
          arrays_(tensor, begin, tensor.sum_aligned16_mask) {}

    FO_DEVICE bool has_blocks_at(int k) const { return has_blocks(arrays_.kind(k)); }

    // Add the terms of a thread's elements to its lanes; the first row begins at `first`.
    FO_DEVICE void add(Items& items, std::int32_t first, std::int32_t high) const {
        items.largest = {};
        FO_NO_UNROLL
        for (int row = 0; row < kRows; ++row) {
            const ThreadItems span = span_of(first, row, high);
            add_row(items.state[0], span, items.lanes);
            items.state[0].template find_largest<F>(arrays_, span, items.largest);
            rotate(items.state);
        }
    }

    FO_DEVICE void store_state(Items& items, std::int32_t first, std::int32_t high) const {
        FO_NO_UNROLL
        for (int row = 0; row < kRows; ++row) {
            const ThreadItems span = span_of(first, row, high);
            items.state[0].template store<F>(arrays_, span, items.largest, false,
                                             RandomItems<kItemsPerThread>(staged_, begin_, span, T()), keys_);
            rotate(items.state);
        }
    }

  private:
    FO_DEVICE static ThreadItems span_of(std::int32_t first, int row, std::int32_t high) {
        return {first + row * kLanes, kGroup<T>, 0, high};
    }

    FO_DEVICE void add_row(StagedState<R, T, kItemsPerThread>& state, const ThreadItems& span,
                           double (&lanes)[R::sums][kItemsPerThread]) const {
        T g[kItemsPerThread];
        StagedParameter<T, kItemsPerThread> p(tensor_, staged_, begin_, tensor_.sum_aligned16_mask);
        p.load(span);
        load_as_is<true>(tensor_.g_format, tensor_.g + begin_ * std::int64_t(item_size(tensor_.g_format)), span,
                         tensor_.sum_aligned16_mask & kAlignedG, g);
        state.load(arrays_, span);
        p.decode();
        decode(tensor_.g_format, g);
        state.decode(arrays_);
        FO_UNROLL
        for (int e = 0; e < kItemsPerThread; ++e) {
            if (!has<T>(span, e)) continue;
            T x = p.value[e];
            const auto terms = apply(terms_of_, x, prepare_.gradient(g[e], x), state.value, e, kStateOf<R>);
            FO_UNROLL
            for (int k = 0; k < R::sums; ++k) lanes[k][e] += terms[k];
        }
    }

    const TensorDesc& tensor_;
    const StagedDesc& staged_;
    const Prepare<T> prepare_;
    const F terms_of_;
    const RandomKeys<R>& keys_;
    const std::int64_t begin_;
    const StagedArrays<R, T> arrays_;
};

template <class R, class T>
struct ReduceStaged : Body<kSumThreads, kSumThreads * R::sums + RandomKeys<R>::kDoubles> {
    static constexpr const char* name = "sums of staged arrays";

    template <class Block>
    FO_DEVICE void operator()(Block& block, const Arguments& arguments) const {
        if (is_skipped(arguments)) return;
        sum_chunks<T, R::sums, false>(
            block, arguments, [](const TensorDesc&, const KernelConstants<T>&) { return true; },
            [&](const TensorDesc& tensor, const KernelConstants<T>& constants, std::int64_t begin, std::int32_t high) {
                const RandomKeys<R> keys(block, block.shared + kSumThreads * R::sums, staged_of<R>(tensor), constants,
                                         begin);
                sum_tiles(block, StagedSums<R, T>(arguments, tensor, constants, begin, keys), high);
            });
    }

  private:
    // All threads of a warp take part in its exchanges, also those of tiles that do not exist.
    template <class Block>
    FO_DEVICE static void sum_tiles(Block& block, const StagedSums<R, T>& sums, std::int32_t high) {
        typename Block::template Registers<typename StagedSums<R, T>::Items> items(block);
        for (std::int32_t row = 0; row < kSumTile && row < high; row += kCodeBlock) {
            const auto first = [=](int thread) { return tile_of(thread) + row + lane_of(thread); };
            block.each([&](int thread) { sums.add(items[thread], first(thread), high); });
            exchange_largest<kLanes / kItemsPerThread, R>(block, items, [&](int k) { return sums.has_blocks_at(k); });
            block.each([&](int thread) { sums.store_state(items[thread], first(thread), high); });
        }
        block.phase(
            [&](int thread) { add_lanes<R::sums, false>(items[thread].lanes, block.shared + thread, kSumThreads); });
    }
};

}  // namespace fo::FO_TARGET
