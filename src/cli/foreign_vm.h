#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/reflect.h"
#include "base/result.h"
#include "base/units.h"

/// VMs of other systems, as their descriptions say.
namespace virga::cli {

/// One thing that will not be as it was.
struct DomainDifference {
  std::string what;      ///< "firmware", "disk vdb"
  std::string was;       ///< in the description's own words
  std::string will_be;   ///< here
  bool is_loss = false;  ///< its guest may not work without it
};
BOOST_DESCRIBE_STRUCT(DomainDifference, (), (what, was, will_be, is_loss))

struct DomainNic {
  std::string source;  ///< name of the network or bridge there; empty = not told
  std::string mac;
};
BOOST_DESCRIBE_STRUCT(DomainNic, (), (source, mac))

/// What is taken over of a libvirt domain, and what is not.
struct Domain {
  std::string name;
  int cpus = 1;
  Mib memory_mib;
  std::string disk;  ///< path of its first disk there; empty = it has none that is a file
  std::string root;  ///< the name of that disk among the differences
  std::vector<DomainNic> nics;
  std::vector<DomainDifference> differences;
};
BOOST_DESCRIBE_STRUCT(Domain, (), (name, cpus, memory_mib, disk, root, nics, differences))

/// Reads what `virsh dumpxml` prints; at most 1 MiB. Elements that are not understood are differences, devices of
/// unknown kinds are losses. Pure.
/// Errors: invalid (no XML, no domain, not for x86_64 under QEMU; names the element and what would be right).
/// Source: libvirt, docs/formatdomain.rst.
Result<Domain> read_domain(std::string_view xml);

}  // namespace virga::cli
