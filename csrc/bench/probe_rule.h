// The bandwidth probe as a rule: it reads and writes what another rule does, with the least arithmetic there is.
//
// Every value that is written is XORed with the XOR of the element's values that are only read, masked.  With a mask of
// 0, which the compiler does not know, nothing changes, so that the probe can run on a model's own arrays.  It measures
// the memory traffic of the step's own loops, including the conversion of storage formats.  A loop of its own with raw
// words was no faster (docs/performance.md).
#pragma once

#include "../formats.h"
#include "../rule_traits.h"

namespace fo::FO_TARGET {

template <class T>
using WordOf = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

template <class T, Access kAccess>
using ProbeArgument =
    std::conditional_t<kAccess == Access::kNone, Unread, std::conditional_t<kAccess == Access::kRead, const T&, T&>>;

// `kAccess`: to p, g and each state array.
template <class T, auto kAccess, class = std::make_index_sequence<kAccess.size()>>
struct ProbeRule;

template <class T, auto kAccess, std::size_t... I>
struct ProbeRule<T, kAccess, std::index_sequence<I...>> {
    static constexpr std::array<const char*, kAccess.size() - 2> state{};

    WordOf<T> mask;

    static constexpr bool kWrites = ((kAccess[I] == Access::kWrite) || ...);

    // The XOR of all values that are only read.
    FO_HD static WordOf<T> read(ProbeArgument<T, kAccess[I]>... values) {
        return (WordOf<T>(0) ^ ... ^ only_read<kAccess[I]>(values));
    }

    FO_HD void operator()(ProbeArgument<T, kAccess[I]>... values) const {
        const WordOf<T> change = mask & read(values...);
        (write<kAccess[I]>(values, change), ...);
    }

  private:
    template <Access kOne, class Value>
    FO_HD static WordOf<T> only_read([[maybe_unused]] const Value& value) {
        if constexpr (kOne == Access::kRead) return bits<WordOf<T>>(value);
        return 0;
    }

    template <Access kOne, class Value>
    FO_HD static void write([[maybe_unused]] Value& value, [[maybe_unused]] WordOf<T> change) {
        if constexpr (kOne == Access::kWrite) value = bits<T>(bits<WordOf<T>>(value) ^ change);
    }
};

}  // namespace fo::FO_TARGET
