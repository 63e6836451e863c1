#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/loop.h"
#include "base/result.h"
#include "model/host.h"

namespace virga {

/// What an operator says that a host offers; 0 = what is found counts.
struct DeclaredCapacity {
  std::int64_t cpu_millicores = 0;
  std::int64_t memory_mib = 0;
};

/// What a host offers and uses, read from its control group (as in the lab, where a host is one) or, without limits
/// there, from the machine. Knows cgroup versions 1 and 2. Cheap: a few small files.
class HostFacts {
 public:
  /// `cgroup` as in /proc/self/cgroup, such as "virga-lab/a/h1"; empty = the whole machine.
  HostFacts(Loop& loop, std::string cgroup, DeclaredCapacity declared = {});

  /// What is declared, else processor quota and memory limit; memory is never more than the machine has.
  Capacity capacity() const;

  /// Processor time over the span since the last call, and memory in use now.
  Capacity used();

 private:
  std::string path(const std::string& controller, const std::string& file) const;

  Loop& loop_;
  std::string cgroup_;
  DeclaredCapacity declared_;
  bool version_2_ = false;
  std::int64_t last_cpu_ns_ = -1;
  Instant last_at_;
};

/// The networks that addresses of this host lie in, "192.0.2.0/24", as its devices have them; an address that no device
/// has counts for itself. IPv4.
std::vector<std::string> networks_of(const std::vector<std::string>& addresses);

/// IPv4 addresses of name servers in the text of a resolv.conf that are not this host's own loopback; at most 3.
std::vector<std::string> resolvers_in(const std::string& text);

}  // namespace virga
