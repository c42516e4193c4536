#include "noise.h"

#include "../float_environment.h"
#include "parallel.h"

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
    for (std::int64_t block = begin; block < end; ++block)
        FO_TARGET::write_normal(work.key, block, static_cast<T*>(work.data), work.size);
}

}  // namespace

void fill_normal(const ArrayRef& array, const RandomKey& key) {
    const Fill context{array.data, array.size, key};
    const auto function = array.format == Format::kFloat64 ? &fill<double> : &fill<float>;
    run({function, &context, (array.size + 3) / 4, kMinShare, 1});
}

}  // namespace fo::cpu
