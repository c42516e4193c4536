// Prefetches that are spread over other work.  Conversions of a tile leave the memory idle, and all prefetches at once
// would wait for each other; the processor's own follow the loads of an update alone.
#pragma once

#include <cstddef>

#if defined(__GNUC__)
#define FO_PREFETCH(ADDRESS) __builtin_prefetch(ADDRESS)
#else
#define FO_PREFETCH(ADDRESS)
#endif

namespace fo::cpu {

class Ahead {
  public:
    void clear() { count_ = 0; }

    // Add an array's part that will be read.
    void add(const void* first, std::size_t bytes) {
        if (count_ < kMost) streams_[count_++] = {static_cast<const std::byte*>(first), bytes / kLine};
    }

    // Fetch the next line of each.
    void fetch() {
        for (int i = 0; i < count_; ++i) {
            Stream& stream = streams_[i];
            if (stream.lines == 0) continue;
            FO_PREFETCH(stream.next);
            stream.next += kLine;
            --stream.lines;
        }
    }

  private:
    static constexpr std::size_t kLine = 64;
    static constexpr int kMost = 4;
    struct Stream {
        const std::byte* next;
        std::size_t lines;
    };
    Stream streams_[kMost];
    int count_ = 0;
};

}  // namespace fo::cpu
