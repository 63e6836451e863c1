#include "agent/agent_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/reflect.h"
#include "edge/file.h"

namespace virga {
namespace {

namespace fs = std::filesystem;

/// Names of the folders in a folder, sorted. What cannot be read becomes a problem.
std::vector<std::string> folders_in(const std::string& path, ConfigurationList& into) {
  std::vector<std::string> names;
  std::error_code why;
  for (fs::directory_iterator entry(path, why); !why && entry != fs::directory_iterator();
       entry.increment(why)) {
    std::error_code ignored;
    if (entry->is_directory(ignored)) names.push_back(entry->path().filename().string());
  }
  if (why) into.problems.push_back(path + ": " + why.message());
  std::sort(names.begin(), names.end());
  return names;
}

void read_configuration(const std::string& path, ConfigurationList& into) {
  const auto text = read_file(path, 1 << 20);
  if (!text) {
    // A folder without one belongs to a VM that was never placed.
    if (text.error().code != Errc::not_found) into.problems.push_back(text.error().text());
    return;
  }
  auto launch = from_json_text<VmLaunch>(*text, UnknownFields::ignore);
  if (launch.ok()) {
    into.launches.push_back(std::move(*launch));
  } else {
    into.problems.push_back(path + ": " + launch.error().text());
  }
}

}  // namespace

Result<ConfigurationList> list_configurations(const std::string& shared_directory) {
  const std::string vms = shared_directory + "/vms";
  std::error_code why;
  if (!fs::is_directory(shared_directory, why)) {
    return make_error(Errc::not_found,
                      "the shared directory " + shared_directory + " is not there; is it mounted?");
  }
  ConfigurationList found;
  for (const std::string& tenant : folders_in(vms, found)) {
    for (const std::string& vm : folders_in(vms + "/" + tenant, found)) {
      read_configuration(fmt::format("{}/{}/{}/vm.json", vms, tenant, vm), found);
    }
  }
  return found;
}

}  // namespace virga
