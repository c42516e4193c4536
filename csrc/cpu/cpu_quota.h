// The processor time that a container may use (Linux cgroups, versions 1 and 2).
#pragma once

#include <string>

namespace fo::cpu {

// Return the smallest quota of this process's cgroup and its ancestors, in processors, rounded down, at least 1; 0 if
// there is no quota.  `root` is a prefix of /proc and /sys, for tests.
int quota_processors(const std::string& root = "");

}  // namespace fo::cpu
