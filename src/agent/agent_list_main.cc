#include "agent/agent_list_main.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "agent/agent_list.h"
#include "base/reflect.h"

namespace virga {
namespace {

void print_table(const std::vector<VmLaunch>& launches) {
  std::size_t width = 2;
  for (const VmLaunch& launch : launches) width = std::max(width, launch.vm.value.size());
  fmt::print("{:{}}  {:>10}  CPUS  MEMORY_MIB  DISKS  ADDRESSES\n", "VM", width, "EPOCH");
  for (const VmLaunch& launch : launches) {
    std::string addresses;
    for (const LaunchNic& nic : launch.nics)
      addresses += (addresses.empty() ? "" : ",") + nic.address;
    fmt::print("{:{}}  {:>10}  {:>4}  {:>10}  {:>5}  {}\n", launch.vm.value, width,
               to_string(launch.epoch), launch.cpus, launch.memory_mib.value, launch.disks.size(),
               addresses.empty() ? "-" : addresses);
  }
}

}  // namespace

int agent_list_main(int argc, char** argv) {
  std::string shared;
  std::string output = "table";
  CLI::App app("Shows the VMs of a cluster as they lie on its shared storage.",
               "virgad agent list");
  app.add_option("--shared", shared, "the cluster's shared directory")->required();
  app.add_option("-o,--output", output, "table or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const auto found = list_configurations(shared);
  if (!found) {
    std::fprintf(stderr, "virgad agent list: %s\n", found.error().text().c_str());
    return 1;
  }
  if (output == "json") {
    fmt::print("{}\n", to_json_text(found->launches));
  } else {
    print_table(found->launches);
  }
  for (const std::string& problem : found->problems) {
    std::fprintf(stderr, "virgad agent list: %s\n", problem.c_str());
  }
  return found->problems.empty() ? 0 : 1;
}

}  // namespace virga
