#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "lab/lab_options.h"

namespace virga {

/// What this machine allows who starts a lab. An obstacle is a sentence with the way around it; empty = there is none.
struct LabFacts {
  bool sys_admin = false;  ///< CAP_SYS_ADMIN, in effect
  bool net_admin = false;  ///< CAP_NET_ADMIN
  std::string cgroups;     ///< obstacle to making control groups
  std::string user_namespace;                 ///< obstacle to the lab's own namespaces
  std::vector<std::string> missing_programs;  ///< each with the way to get it
};

/// How a user namespace failed to come about, and the kernel's switches for them (-1 = this kernel has none such).
struct UserNamespaceTrial {
  std::string step;  ///< what was tried last; empty = all of it went well
  int error = 0;     ///< errno
  int namespaces_max = -1;  ///< user.max_user_namespaces
  int clone = -1;           ///< kernel.unprivileged_userns_clone
  int apparmor = -1;        ///< kernel.apparmor_restrict_unprivileged_userns
};

/// The obstacle that a trial met: the step, the kernel's words, and the switch that is in the way when one is.
std::string user_namespace_obstacle(const UserNamespaceTrial& trial);

/// The whole machine for who has all rights on it, else namespaces of its own where the kernel allows them.
/// Errors: denied, with all that is missing and how to get it; unsupported (programs).
Result<LabRights> choose_lab_rights(const LabFacts& facts);

/// Asks the machine. Makes a control group and removes it, and namespaces in a short-lived child.
LabFacts look_for_lab_rights();

}  // namespace virga
