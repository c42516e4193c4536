// Prefetches that are spread over other work.  Conversions of a tile leave the memory idle, and all prefetches at once
// would wait for each other; the processor's own follow the loads of an update alone.
#pragma once

#include "../rule.h"

#include <cstddef>
#include <cstring>

#if defined(__GNUC__)
#define FO_PREFETCH(ADDRESS) __builtin_prefetch(ADDRESS)
#else
#define FO_PREFETCH(ADDRESS)
#endif

namespace fo {

inline constexpr std::size_t kCacheLine = 64;

}  // namespace fo

namespace fo::FO_TARGET {

// Copy memory, and fetch as many bytes after it.
inline void copy_and_fetch(void* to, const void* from, std::size_t bytes) {
    auto* target = static_cast<std::byte*>(to);
    const auto* source = static_cast<const std::byte*>(from);
    for (const auto* const end = source + bytes / kCacheLine * kCacheLine; source != end;
         source += kCacheLine, target += kCacheLine) {
        FO_PREFETCH(source + bytes);
        std::memcpy(target, source, kCacheLine);
    }
    std::memcpy(target, source, bytes % kCacheLine);
}

}  // namespace fo::FO_TARGET

namespace fo::cpu {

class Ahead {
  public:
    void clear() { count_ = 0; }

    // Add memory that the next `calls` calls of fetch will cover.
    void add(const void* first, std::size_t bytes, std::size_t calls) {
        if (count_ < kMost) streams_[count_++] = {static_cast<const std::byte*>(first), (bytes + calls - 1) / calls};
    }

    // Fetch the next part of each.
    void fetch() {
        for (int i = 0; i < count_; ++i) {
            Stream& stream = streams_[i];
            for (std::size_t at = 0; at < stream.bytes; at += kCacheLine) FO_PREFETCH(stream.next + at);
            stream.next += stream.bytes;
        }
    }

  private:
    static constexpr int kMost = 3;  // the parameter, its extra bits and the gradient; decoding fetches the next codes
    struct Stream {
        const std::byte* next;
        std::size_t bytes;
    };
    Stream streams_[kMost];
    int count_ = 0;
};

}  // namespace fo::cpu
