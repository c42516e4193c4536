#include "isa.h"

#include <cstdlib>
#include <stdexcept>

namespace fo::cpu {
namespace {

struct Candidate {
    Isa isa;
    bool supported;
};

std::vector<Candidate> candidates() {
    std::vector<Candidate> all{{{"baseline", loops_baseline(), probes_baseline()}, true}};
#if defined(FO_X86)
    __builtin_cpu_init();
    all.push_back({{"avx2", loops_avx2(), probes_avx2()}, __builtin_cpu_supports("avx2") != 0});
    all.push_back({{"avx512", loops_avx512(), probes_avx512()},
                   __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")});
#endif
    return all;
}

}  // namespace

const std::vector<Isa>& usable_isas() {
    static const std::vector<Isa> usable = [] {
        std::vector<Isa> found;
        for (const auto& candidate : candidates())
            if (candidate.supported) found.push_back(candidate.isa);
        return found;
    }();
    return usable;
}

std::vector<std::string> compiled_isas() {
    std::vector<std::string> names;
    for (const auto& candidate : candidates()) names.emplace_back(candidate.isa.name);
    return names;
}

const Isa& named_isa(const std::string& name) {
    std::string had;
    for (const auto& isa : usable_isas()) {
        if (name == isa.name) return isa;
        had += std::string(had.empty() ? "" : ", ") + isa.name;
    }
    throw std::runtime_error("FASTOPTIM_ISA: expected one of " + had + " on this processor with this build, got '" +
                             name + "'");
}

const Isa& default_isa() {
    static const Isa& chosen = [&]() -> const Isa& {
        const char* forced = std::getenv("FASTOPTIM_ISA");
        return forced && *forced ? named_isa(forced) : usable_isas().back();
    }();
    return chosen;
}

}  // namespace fo::cpu
