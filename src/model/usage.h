#pragma once

#include <vector>

#include "base/reflect.h"
#include "base/units.h"
#include "model/meta.h"

namespace virga {

/// What one copy of a VM has used since it began. Counters only grow in the life of one (vm, epoch) on one host, across
/// restarts of its agent as well: a sample that is lost is made good by the next. Disks and networks as the guest sees
/// them; negative = not measured here.
struct VmUsage {
  VmId vm;
  Epoch epoch;
  Duration age_ms{0};  ///< since its process began
  bool ended = false;  ///< its process is gone: these figures are the last
  int cpus = 0;        ///< that it was started with
  Mib memory_mib;      ///< likewise
  Duration run_ms{
      0};  ///< time that its guest has run here: not waiting for a migration, not handed over
  Duration cpu_ms{0};   ///< processor time of all its processes
  Mib memory_mib_used;  ///< resident now
  std::int64_t disk_read_bytes = -1;
  std::int64_t disk_written_bytes = -1;
  std::int64_t disk_reads = -1;
  std::int64_t disk_writes = -1;
  std::int64_t net_received_bytes = -1;
  std::int64_t net_sent_bytes = -1;
};
BOOST_DESCRIBE_STRUCT(VmUsage, (),
                      (vm, epoch, age_ms, ended, cpus, memory_mib, run_ms, cpu_ms, memory_mib_used,
                       disk_read_bytes, disk_written_bytes, disk_reads, disk_writes,
                       net_received_bytes, net_sent_bytes))

/// Copies of one host, each once in ten seconds, beside the heartbeats. Copies that have ended are told of until the
/// server says that it has kept their last figures.
struct UsageReport {
  std::uint64_t sequence = 0;  ///< grows as long as the host lives
  std::vector<VmUsage> vms;
};
BOOST_DESCRIBE_STRUCT(UsageReport, (), (sequence, vms))

/// The server's answer: reports from `since` up to this one are stored for good. What was told before `since`, the
/// server may have missed.
struct UsageKept {
  std::uint64_t sequence = 0;
  std::uint64_t since = 0;  ///< absent from servers of before
};
BOOST_DESCRIBE_STRUCT(UsageKept, (), (sequence, since))

}  // namespace virga
