#include "cpu_quota.h"

#include <algorithm>
#include <fstream>
#include <sstream>

namespace fo::cpu {
namespace {

// In this file 0 means that there is no quota.
int smaller(int a, int b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

int whole_processors(double quota, double period) {
    if (!(quota > 0) || !(period > 0)) return 0;
    return std::max(1, static_cast<int>(std::min(quota / period, 4096.0)));
}

// Version 2: "max 100000" or "150000 100000" in one file.
int quota_v2(const std::string& folder) {
    std::ifstream file(folder + "/cpu.max");
    double quota = 0, period = 0;
    return file >> quota >> period ? whole_processors(quota, period) : 0;
}

// Version 1: two files, -1 for no quota.
int quota_v1(const std::string& folder) {
    std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
    double quota = 0, period = 0;
    return quota_file >> quota && period_file >> period ? whole_processors(quota, period) : 0;
}

// Return the smallest quota of a cgroup and its ancestors.  In a container `path` may be the host's, which is not
// mounted; then only the last iteration, at the mount point, finds files.
template <class Quota>
int smallest_quota(const std::string& mount, std::string path, Quota quota_of) {
    int found = 0;
    for (;;) {
        found = smaller(found, quota_of(mount + path));
        if (path.empty()) return found;
        path.erase(path.find_last_of('/'));
    }
}

bool has_controller(const std::string& controllers, const std::string& name) {
    std::istringstream list(controllers);
    for (std::string entry; std::getline(list, entry, ',');)
        if (entry == name) return true;
    return false;
}

}  // namespace

int quota_processors(const std::string& root) {
    const std::string mounts = root + "/sys/fs/cgroup";
    std::ifstream file(root + "/proc/self/cgroup");
    int found = 0;
    for (std::string line; std::getline(file, line);) {  // id:controllers:path
        const auto first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        std::string path = line.substr(second + 1);
        if (path.empty() || path[0] != '/') continue;
        if (path == "/") path.clear();
        if (controllers.empty())
            found = smaller(found, smallest_quota(mounts, path, quota_v2));
        else if (has_controller(controllers, "cpu"))
            found = smaller(found, smallest_quota(mounts + "/" + controllers, path, quota_v1));
    }
    return found;
}

}  // namespace fo::cpu
