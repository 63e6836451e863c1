#pragma once

#include <string>
#include <vector>

#include "base/reflect.h"
#include "base/units.h"
#include "model/meta.h"

namespace virga {

/// The longest lease that a policy may name.
inline constexpr Duration kLeaseMax = seconds(600);

/// How a cluster notices, fences and recovers. Each knob: default and range in check_cluster.
struct ClusterPolicy {
  Duration heartbeat_ms = milliseconds(1000);  ///< between reports of one host
  Duration lease_ms = seconds(10);             ///< how long a host may run guests without the server
  Duration grace_ms = seconds(3);              ///< added before a lease counts as a proof
  Duration suspect_after_ms = milliseconds(2000);  ///< silence before peers are asked
  Duration confirm_after_ms = milliseconds(500);   ///< suspicion before a silent host is fenced
  int failures_tolerated = 1;  ///< host losses that admission keeps room for
  bool ha_armed = true;        ///< false: nothing is fenced or restarted by itself
  int moves_per_host = 2;      ///< live migrations at once, each direction
  int starts_per_host = 4;     ///< VM starts at once on one host
  int cpu_overcommit_percent = 400;  ///< promised processor time against what the hosts have
  Mib image_mib_max{40 * 1024};      ///< of an image's file and of the disk that it describes
};
BOOST_DESCRIBE_STRUCT(ClusterPolicy, (),
                      (heartbeat_ms, lease_ms, grace_ms, suspect_after_ms, confirm_after_ms,
                       failures_tolerated, ha_armed, moves_per_host, starts_per_host,
                       cpu_overcommit_percent, image_mib_max))

struct ClusterSpec {
  ClusterPolicy policy;
  std::string shared_directory;  ///< folder that every member mounts: images and VM disks
  std::vector<std::string>
      floating_ranges{};  ///< IPv4 outside that tenants may have, "203.0.113.16/28"; at most 16
};
BOOST_DESCRIBE_STRUCT(ClusterSpec, (), (policy, shared_directory, floating_ranges))

struct ClusterStatus {
  /// The longest lease that a host may still hold: when the policy has become shorter, that of before for as long as
  /// it lasts. 0 = the policy's.
  Duration lease_ms{0};
};
BOOST_DESCRIBE_STRUCT(ClusterStatus, (), (lease_ms))

/// Hosts that share storage, networks and a failover policy. meta.tenant set = only that tenant's VMs.
struct Cluster {
  Meta meta;
  ClusterSpec spec;
  ClusterStatus status;

  ClusterId id() const { return ClusterId(meta.name); }
};
BOOST_DESCRIBE_STRUCT(Cluster, (), (meta, spec, status))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<Cluster>(const Cluster&);
extern template Result<Cluster> from_json<Cluster>(const json::value&, UnknownFields);

}  // namespace virga
