#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "edge/process.h"
#include "model/host.h"

namespace virga {

struct KvmVerdict {
  std::string boot_id;  ///< of the boot that it was found in
  bool usable = false;
  std::string reason;
};
BOOST_DESCRIBE_STRUCT(KvmVerdict, (), (boot_id, usable, reason))

struct KvmProbeOptions {
  std::string device = "/dev/kvm";
  Duration deadline = milliseconds(50);  ///< of the loop
  double nanoseconds_per_instruction_max = 50;
};

/// Runs 2e5 instructions of a long-mode loop on a virtual processor, in a child that is killed at the deadline.
/// A device that opens, makes VMs and runs a few instructions proves nothing: emulating ones do that too.
/// Blocking, at most the deadline and some milliseconds. `boot_id` of the result is empty.
KvmVerdict probe_kvm(const KvmProbeOptions& options);

/// What such a loop says that took so long for each instruction.
KvmVerdict judge_kvm_loop(double nanoseconds_per_instruction, double allowed);

/// The groups that a process without privileges needs to open the device; empty when its owner has not opened it to a
/// group (then only a guest that keeps privileges can).
std::vector<gid_t> kvm_groups(const std::string& device = "/dev/kvm");

struct CanaryGuest {
  std::string qemu = "/usr/bin/qemu-system-x86_64";
  Accelerator accelerator = Accelerator::tcg;
  std::string scratch;  ///< a folder for its disk that `as` may enter
  Credentials as;       ///< as guests are started
  Duration deadline = seconds(5);
};

/// Boots a sector that says so and powers off: the whole way through QEMU, firmware and disk. Blocking.
/// Errors: timeout, internal.
Result<void> run_canary_guest(const CanaryGuest& canary);

/// The verdict for this boot: from `cache_path`, else found by `probe` and canary and stored there. The canary's
/// accelerator and scratch are set here. Blocking.
KvmVerdict kvm_verdict(
    const std::string& cache_path, CanaryGuest canary,
    const std::function<KvmVerdict()>& probe = [] { return probe_kvm(KvmProbeOptions{}); });

}  // namespace virga
