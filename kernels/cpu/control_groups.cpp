#include "kernels/cpu/control_groups.h"

#include <fstream>
#include <sstream>

namespace sidechannel::kernels {
namespace {

// Whether a list "a,b,c" has the word.
bool lists(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

// The group of this process in the hierarchy of v2, or of v1's controller; empty for none.
std::string group_of(const std::string& root, const std::string& controller, bool v2) {
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // HIERARCHY:CONTROLLERS:PATH
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (v2 ? controllers.empty() : lists(controllers, controller)) return line.substr(second + 1);
  }
  return {};
}

void add_groups(const std::string& root, const std::string& controller, bool v2,
                std::vector<ControlGroup>& found) {
  const std::string group = group_of(root, controller, v2);
  if (group.empty()) return;
  std::ifstream mounts(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    // ID PARENT DEVICE ROOT PLACE OPTIONS [FIELDS] - TYPE SOURCE OPTIONS
    std::istringstream words(line);
    std::string skipped, top, place, word, type, options;
    words >> skipped >> skipped >> skipped >> top >> place;
    while (words >> word && word != "-") continue;
    words >> type >> skipped >> options;
    if (v2 ? type != "cgroup2" : type != "cgroup" || !lists(options, controller)) continue;
    // Of a container that sees only its own part, `top` is that part; where the process lies
    // outside of it, what is mounted is all that can be seen.
    std::string path = group;
    if (top != "/") {
      const bool within = path == top || path.starts_with(std::string(top).append("/"));
      path = within ? path.substr(top.size()) : "";
    }
    if (path.find("/..") != std::string::npos) path.clear();
    for (;;) {
      while (path.ends_with('/')) path.pop_back();
      found.push_back({std::string(root).append(place).append(path), v2});
      if (path.empty()) return;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
}

}  // namespace

std::vector<ControlGroup> control_groups(const std::string& controller, const std::string& root) {
  std::vector<ControlGroup> found;
  for (const bool v2 : {true, false}) add_groups(root, controller, v2, found);
  return found;
}

}  // namespace sidechannel::kernels
