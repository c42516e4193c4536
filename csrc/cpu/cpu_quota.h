// The processor time that a container may use (Linux cgroups, versions 1 and 2).
#pragma once

#include <string>

namespace fo::cpu {

// The smallest quota of this process's cgroup and those that contain it, in processors, rounded down, at least 1.
// 0 where there is no quota.  `root` is put before /proc and /sys, for tests.
int quota_processors(const std::string& root = "");

}  // namespace fo::cpu
