#include "noise.h"

#include "../float_environment.h"
#include "parallel.h"

#include <algorithm>

namespace fo::cpu {
namespace {

constexpr std::int64_t kMinShare = 1024;  // blocks of four elements, some 80 microseconds

struct Fill {
    void* data;
    std::int64_t size;
    const RandomKey& key;
};

template <class T>
void fill(const void* context, std::int64_t begin, std::int64_t end) {
    const DefaultFloatEnvironment environment;
    const auto& work = *static_cast<const Fill*>(context);
    constexpr int kBlocks = 64;
    Words words[kBlocks]{};
    double numbers[4 * kBlocks];  // an array of their own, so that the compiler vectorises the loop
    for (std::int64_t first = begin; first < end; first += kBlocks) {
        const int blocks = int(std::min<std::int64_t>(kBlocks, end - first));
        for (int i = 0; i < blocks; ++i) words[i] = FO_TARGET::random_words(work.key, std::uint64_t(first + i));
        for (int i = 0; i < 4 * kBlocks; ++i) numbers[i] = FO_TARGET::normal_number(words[i / 4].word[i % 4]);
        T* const array = static_cast<T*>(work.data) + 4 * first;
        const std::int64_t size = std::min<std::int64_t>(4 * blocks, work.size - 4 * first);
        for (std::int64_t i = 0; i < size; ++i) array[i] = T(numbers[i]);
    }
}

}  // namespace

void fill_normal(const ArrayRef& array, const RandomKey& key) {
    const Fill context{array.data, array.size, key};
    const auto function = array.format == Format::kFloat64 ? &fill<double> : &fill<float>;
    run({function, &context, (array.size + 3) / 4, kMinShare, 1});
}

}  // namespace fo::cpu
