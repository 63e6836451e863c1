#pragma once

#include <string>
#include <utility>
#include <vector>

#include "runtime/cluster_view.h"

namespace virga {

/// In which regions guests and data may be: those that their tenant allows, and of these those that the volume does;
/// a guest is bound by each volume that it has as a disk. A host is in the region that its record names, a device in
/// its host's. Who is bound to regions is nowhere else, neither on a host that names none. Pure.

/// Why the VM may not be on the host: "is in region us, volume acme/data may be in eu only". Empty = it may.
/// Cost: O(its volumes + allowed regions); next to nothing where nobody has rules.
std::string region_refusal(const ClusterView& view, const Vm& vm, const Host& host);

/// The same of a volume, or a place of it, on a device.
std::string region_refusal(const ClusterView& view, const Volume& volume, const Device& device);

/// Something that is where it may not be.
struct Misplaced {
  std::string subject;  ///< store key: "vm/acme/web"
  std::string tenant;
  std::string place;   ///< "host host-2", "device ssd-1"
  std::string reason;  ///< of region_refusal()

  /// Whatever the reason, it is the same thing at the same place.
  std::pair<std::string, std::string> key() const { return {subject, place}; }
};

/// All of it, VMs before volumes, each in order of id: both ends of what moves count. Cost: O(VMs + volumes) where
/// somebody has rules, else O(volumes).
std::vector<Misplaced> misplaced(const ClusterView& view);

}  // namespace virga
