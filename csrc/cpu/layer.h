// Layers: the implementations that run the threads of a pass.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace fo::cpu {

enum class Layer : std::uint8_t { kSerial, kPool, kOpenMP };

inline constexpr std::array<const char*, 3> kLayerNames{"serial", "pool", "openmp"};

inline const char* name_of(Layer layer) { return kLayerNames[static_cast<std::size_t>(layer)]; }

inline std::optional<Layer> layer_named(std::string_view name) {
    for (std::size_t i = 0; i < kLayerNames.size(); ++i)
        if (name == kLayerNames[i]) return static_cast<Layer>(i);
    return std::nullopt;
}

}  // namespace fo::cpu
