#pragma once

#include <boost/describe.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "lab/lab_options.h"

namespace virga {

struct LabProcess {
  std::string name;
  std::int64_t pid = 0;
  std::uint64_t start_ticks = 0;
};
BOOST_DESCRIBE_STRUCT(LabProcess, (), (name, pid, start_ticks))

/// What a lab has made on this machine: DATA/lab.json, for people who look for it.
struct LabState {
  std::string instance;
  std::string phase;
  std::string prefix;
  std::string api;
  std::string control_socket;
  std::string runtime_folder;
  std::string enter;  ///< command to run a program where all of this is; pids are of there; empty = here
  std::vector<std::string> network_namespaces;
  std::vector<std::string> links;
  std::vector<std::string> cgroups;
  std::vector<LabProcess> processes;
};
BOOST_DESCRIBE_STRUCT(LabState, (),
                      (instance, phase, prefix, api, control_socket, runtime_folder, enter,
                       network_namespaces, links, cgroups, processes))

/// Everything of an instance that a crash could have left is found by its name: processes by cgroup, namespaces and
/// links by prefix. Ends and removes all of it, and nothing else. Blocking, at most 15 s.
/// Errors: timeout (processes survive SIGKILL), denied, internal.
Result<void> clean_lab(const LabOptions& options);

/// An instance's lock, held by the running `virgad dev`; the kernel frees it with the process. Returns the open
/// descriptor. Errors: conflict (that lab runs).
Result<int> lock_lab(const std::string& instance);

/// Removes the lock's file and frees it.
void unlock_lab(const std::string& instance, int lock);

}  // namespace virga
