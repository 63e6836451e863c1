#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "lab/lab_protocol.h"

namespace virga {

/// Names and addresses of one lab, all made from its instance and address prefix, so that they are found again.
struct LabPlan {
  std::string instance;  ///< at most 8 characters
  std::string prefix =
      "10.77";  ///< PREFIX.0 management, .1 storage, .2 tenant, .3 BMCs, .4 outside; each a /24
  int hosts = 3;

  std::string switch_namespace() const { return "vg-" + instance + "-sw"; }
  std::string bmc_namespace() const { return "vg-" + instance + "-bmc"; }
  std::string client_namespace() const { return "vg-" + instance + "-client"; }
  std::string host_namespace(int index) const {
    return "vg-" + instance + "-h" + std::to_string(index);
  }
  std::string server_link() const { return "vg-" + instance + "-m"; }  ///< in the root namespace
  std::string bmc_link() const { return "vg-" + instance + "-b"; }     ///< likewise
  std::string server_address() const { return prefix + ".0.1"; }
  std::string management_address(int index) const { return address(0, 10 + index); }
  std::string storage_address(int index) const { return address(1, 10 + index); }
  std::string tenant_address(int index) const { return address(2, 10 + index); }
  std::string bmc_address(int index) const { return address(3, 10 + index); }
  std::string outside_address(int index) const { return address(4, 10 + index); }
  std::string client_address() const { return address(2, 250); }
  std::string client_outside_address() const { return address(4, 250); }

 private:
  std::string address(int network, int last) const {
    return prefix + "." + std::to_string(network) + "." + std::to_string(last);
  }
};

enum class LinkDirection { to_host, from_host };

/// The client's place on a tenant's network.
struct LabClientPort {
  std::string device;
  std::string mac;
  std::string tunnel_address;
};

/// The lab's cables and switches: a namespace with one bridge a network; hosts, BMCs and the client in namespaces of
/// their own. Only two links stand in the root namespace: the server's on the management network and on the BMCs'.
///
/// By ip(8) and nft(8): a few tens of milliseconds a call, blocking. Errors: denied, unsupported (program missing),
/// internal (the program's words).
class LabNetwork {
 public:
  static constexpr int kHostsMax = 64;

  explicit LabNetwork(LabPlan plan) : plan_(std::move(plan)) {}

  const LabPlan& plan() const { return plan_; }

  /// The first of 10.77, 10.78 ... 10.99 that no address and no route of the root namespace touches and that is none of
  /// `others`. Errors: exhausted.
  static Result<std::string> free_prefix(const std::set<std::string>& others);

  /// Switches, the two links of the root namespace, the BMCs' and the client's namespace.
  Result<void> create();

  /// A host as it is after power-on: fresh namespace and links, nothing of the boot before. Cuts stay in force.
  Result<void> plug_host(int index);

  /// Takes the cables out at once; the host's own end sees the carrier go.
  Result<void> cut_all(int index);

  /// Ends the host's namespace with all that its kernel held: sockets, taps, bridges.
  Result<void> unplug_host(int index);

  /// Cuts or mends; one way: only frames in that direction are lost.
  Result<void> set_cut(int index, LabNetworkName network, bool cut);
  Result<void> set_one_way(int index, LabNetworkName network, LinkDirection direction, bool cut);
  std::vector<std::string> cuts(int index) const { return names(cut_, index); }
  std::vector<std::string> one_ways(int index, LinkDirection direction) const {
    return names(lost(direction), index);
  }

  /// A VXLAN end point of the client in tenant network `vni`. It sends each frame to all hosts, so that it finds a
  /// guest wherever it has moved; for guests to find it, the network names it among its machines outside. Idempotent.
  Result<LabClientPort> attach_client(std::uint32_t vni, const std::string& address);

  /// The names of all namespaces of the instance that exist.
  static std::vector<std::string> namespaces_of(const std::string& instance);

  /// Removes all namespaces and links of the instance; what is not there counts as removed.
  static Result<void> remove_all(const std::string& instance);

 private:
  using Ports = std::set<std::pair<int, LabNetworkName>>;
  static std::vector<std::string> names(const Ports& ports, int index);
  Result<void> apply_one_way() const;
  const Ports& lost(LinkDirection direction) const {
    return direction == LinkDirection::to_host ? lost_to_host_ : lost_from_host_;
  }

  LabPlan plan_;
  Ports cut_;
  Ports lost_to_host_;
  Ports lost_from_host_;
};

/// An open descriptor of a named network namespace; the caller closes it. Errors: not_found.
Result<int> open_namespace(const std::string& name);

}  // namespace virga
