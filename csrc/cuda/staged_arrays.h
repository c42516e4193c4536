// A thread's elements of arrays that an update does not take as they are stored, decoded into registers and encoded
// again.
//
// Main types: StagedParameter; StagedArrays, where the state arrays of a tensor are; StagedState.
#pragma once

#include "staged_items.h"

namespace fo::FO_TARGET {

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

}  // namespace fo::FO_TARGET
