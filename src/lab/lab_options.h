#pragma once

#include <string>
#include <vector>

#include "lab/cgroup.h"
#include "lab/lab_protocol.h"

namespace virga {

/// With which rights a lab runs.
enum class LabRights {
  whole_machine,   ///< over this machine's namespaces and control groups
  user_namespace,  ///< over namespaces of its own alone: hosts have no control groups, so no limits
};

/// What `virgad dev` was told.
struct LabOptions {
  std::string instance = kLabInstanceDefault;  ///< names all that it makes; 1 to 8 of a-z, 0-9
  std::string data;  ///< kept between runs; empty = /var/lib/virga/lab/INSTANCE
  std::string listen = "127.0.0.1:7070";  ///< of the API; loopback only
  int hosts = 3;
  LabHostLimits limits{{1000}, {2048}};  ///< what each host declares and cannot exceed
  int watchdog_s = 10;                   ///< 0 = the hosts have none
  std::string own_program;               ///< absolute path; runs as leash and BMC
  std::string server_program;  ///< what runs as server and agent: own_program, or a test's stand-in
  std::string agent_program;
  LabRights rights = LabRights::whole_machine;
  std::vector<std::string> host_devices;  ///< "HOST:NAME=/dev/..." each
  std::string log_level = "info";  ///< of server and agents
  int api_descriptor = -1;  ///< a socket that listens outside the lab's namespaces; -1 = none
  std::string enter;        ///< command that runs a program inside them; empty = there are none
};

/// Where the files of a lab lie. Sockets, switches and the leashes' state are on tmpfs, where no disk can stop them.
struct LabPaths {
  explicit LabPaths(const LabOptions& options)
      : data(options.data),
        control("/run/virga-lab/" + options.instance),
        runtime("/dev/shm/virga-lab-" + options.instance) {}

  std::string data;
  std::string control;
  std::string runtime;

  std::string state() const { return data + "/lab.json"; }
  std::string shared() const { return data + "/shared"; }
  std::string server() const { return data + "/server"; }
  std::string bmc_password() const { return data + "/bmc-password"; }
  std::string log(const std::string& program) const { return data + "/log/" + program + ".log"; }
  std::string host_data(const std::string& host) const { return data + "/hosts/" + host; }
  std::string token(const std::string& host) const { return host_data(host) + "/join-token"; }
  std::string host_runtime(const std::string& host) const { return runtime + "/" + host; }
};

constexpr const char* kLabCluster = "lab";
constexpr int kAgentsPort = 7443;
constexpr int kBmcPort = 8000;

inline std::string lab_cgroup_name(const std::string& instance) { return "virga-lab/" + instance; }

}  // namespace virga
