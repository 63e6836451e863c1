#include "lab/lab_rights.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "lab/cgroup.h"
#include "lab/user_namespace.h"

namespace virga {

namespace {

/// The effective capabilities of this process, as the kernel's bit set.
std::uint64_t capabilities() {
  std::ifstream file("/proc/self/status");
  std::string word;
  while (file >> word) {
    if (word == "CapEff:") break;
  }
  std::uint64_t bits = 0;
  file >> std::hex >> bits;
  return bits;
}

bool has_program(const std::string& name) {
  for (const char* folder : {"/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"}) {
    if (access((folder + name).c_str(), X_OK) == 0) return true;
  }
  return false;
}

int read_switch(const std::string& path) {
  std::ifstream file("/proc/sys/" + path);
  int value = -1;
  return file >> value ? value : -1;
}

}  // namespace

std::string user_namespace_obstacle(const UserNamespaceTrial& trial) {
  if (trial.step.empty()) return {};
  std::string text = trial.step + ": " + strerror(trial.error);
  if (trial.namespaces_max == 0) {
    text += "; allow them with: sysctl user.max_user_namespaces=1000";
  } else if (trial.clone == 0) {
    text += "; allow them with: sysctl kernel.unprivileged_userns_clone=1";
  } else if (trial.apparmor > 0) {
    text += "; allow them with: sysctl kernel.apparmor_restrict_unprivileged_userns=0";
  } else if (trial.error == EPERM || trial.error == EACCES) {
    text += "; a container or a security module forbids it: allow user namespaces there";
  }
  return text;
}

Result<LabRights> choose_lab_rights(const LabFacts& facts) {
  std::string programs;
  for (const std::string& program : facts.missing_programs) programs += "\n  " + program;
  const bool capable = facts.sys_admin && facts.net_admin;
  if (programs.empty() && capable && facts.cgroups.empty()) return LabRights::whole_machine;
  if (programs.empty() && facts.user_namespace.empty()) return LabRights::user_namespace;
  std::string missing;
  if (!facts.user_namespace.empty()) {
    if (!facts.sys_admin)
      missing += "\n  CAP_SYS_ADMIN, to make network namespaces: run it with sudo";
    if (!facts.net_admin)
      missing += "\n  CAP_NET_ADMIN, to make links and addresses: run it with sudo";
    if (capable && !facts.cgroups.empty()) missing += "\n  cgroups: " + facts.cgroups;
    if (!missing.empty())
      missing += "\n  or, instead of these, a user namespace: " + facts.user_namespace;
  }
  return make_error(missing.empty() ? Errc::unsupported : Errc::denied,
                    "start a lab on this machine: it lacks" + missing + programs);
}

LabFacts look_for_lab_rights() {
  constexpr int kNetAdmin = 12;
  constexpr int kSysAdmin = 21;
  LabFacts facts;
  const std::uint64_t bits = capabilities();
  facts.sys_admin = (bits >> kSysAdmin & 1) != 0;
  facts.net_admin = (bits >> kNetAdmin & 1) != 0;
  for (const char* program : {"ip", "bridge"}) {
    if (!has_program(program))
      facts.missing_programs.push_back(std::string("the program ") + program +
                                       ": apt-get install iproute2");
  }
  if (!has_program("nft"))
    facts.missing_programs.emplace_back("the program nft: apt-get install nftables");
  const LabCgroup probe("virga-lab/probe");
  if (auto made = probe.create(); !made) facts.cgroups = made.error().text();
  [[maybe_unused]] const auto removed = probe.remove();
  if (facts.sys_admin && facts.net_admin && facts.cgroups.empty()) return facts;
  UserNamespaceTrial trial;
  const NamespaceFailure failure = try_user_namespace();
  trial.step = failure.step == nullptr ? "" : failure.step;
  trial.error = failure.error;
  trial.namespaces_max = read_switch("user/max_user_namespaces");
  trial.clone = read_switch("kernel/unprivileged_userns_clone");
  trial.apparmor = read_switch("kernel/apparmor_restrict_unprivileged_userns");
  facts.user_namespace = user_namespace_obstacle(trial);
  return facts;
}

}  // namespace virga
