#include "isa.h"

#include "../rule_info.h"
#include "units.h"

#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string_view>

namespace fo::cpu {
namespace {

using UnitFunction = Unit (*)();

struct Candidate {
    const char* name;
    std::vector<UnitFunction> units;  // compiled for the instruction set: not to be called where it is not supported
    bool supported;
};

#define FO_UNIT(ISA, NUMBER) units[#ISA].push_back(&unit_##ISA##_##NUMBER);

std::vector<Candidate> candidates() {
    std::map<std::string, std::vector<UnitFunction>> units;
#include "units.inc"
    std::vector<Candidate> all{{"baseline", units["baseline"], true}};
#if defined(FO_X86)
    __builtin_cpu_init();
    const bool converts_halves = __builtin_cpu_supports("f16c") != 0;
    all.push_back({"avx2", units["avx2"], converts_halves && __builtin_cpu_supports("avx2") != 0});
    all.push_back({"avx512", units["avx512"],
                   converts_halves && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")});
#endif
    std::erase_if(all, [](const Candidate& each) { return each.units.empty(); });  // a build of fewer (FASTOPTIM_ISAS)
    return all;
}

#undef FO_UNIT

// Return the loops of all units in the order of rules().  Never freed: threads may run them while the process exits.
Loops gather(const std::vector<UnitFunction>& units) {
    auto* loops = new std::vector<RuleLoops>(rules().size());
    for (std::size_t i = 0; i < loops->size(); ++i)
        for (const UnitFunction unit : units)
            for (const RuleLoops& each : unit().rules)
                if (std::string_view(each.rule) == rules()[i].name) (*loops)[i] = each;
    const Unit any = units.front()();
    return {loops->data(), any.gradient, any.storage, any.axis};
}

}  // namespace

const std::vector<Isa>& usable_isas() {
    static const std::vector<Isa> usable = [] {
        std::vector<Isa> found;
        for (const auto& candidate : candidates())
            if (candidate.supported) found.push_back({candidate.name, gather(candidate.units)});
        if (found.empty())
            throw std::runtime_error(
                "FASTOPTIM_ISAS: expected an instruction set of this processor in the build, got " +
                std::string(candidates().front().name));
        return found;
    }();
    return usable;
}

std::vector<std::string> compiled_isas() {
    std::vector<std::string> names;
    for (const auto& candidate : candidates()) names.emplace_back(candidate.name);
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
