#pragma once

#include <string>

#include "base/result.h"
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

/// Boots a sector that says so and powers off: the whole way through QEMU, firmware and disk. Blocking.
/// `scratch` is a folder for the sector's file. Errors: timeout, internal.
Result<void> run_canary_guest(const std::string& qemu, Accelerator accelerator,
                              const std::string& scratch, Duration deadline);

/// The verdict for this boot: from `cache_path`, else found by probe and canary and stored there. Blocking.
KvmVerdict kvm_verdict(const std::string& cache_path, const std::string& qemu);

}  // namespace virga
