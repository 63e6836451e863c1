#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/reflect.h"
#include "base/result.h"
#include "driver/fabric.h"
#include "driver/net/netlink.h"
#include "driver/net/nftables.h"

namespace virga {

/// What ports that have security groups exchange with others: what a rule allows, and the answers to it. Beside the
/// PortFilter, which holds for all ports. By nftables: a table of family ip decides, with the kernel's connection
/// tracking that br_netfilter lends to bridges; a table of family bridge lets nothing through that was not decided on.
/// Both are there only while a port has groups, and outlive the agent as the ports do.
///
/// DHCP passes between a port and the network's gateway, whatever the groups say, and with nobody else.
///
/// Every packet in the direction of who opened a connection is checked against the rules, also of one that is
/// established: a rule taken away ends what it allowed with the next packet. Answers pass as long as the kernel knows
/// the connection. Each network has a zone of its own for tracking.
///
/// A port that begins to be filtered here (a live move, its first group) has connections that the kernel has not seen
/// begin. For kPickUp the middle of a TCP connection is taken up, without a SYN, in either direction, while rules allow
/// the connection one way or the other; it is checked both ways for the rest of its life. After that only the side that
/// opened it can take it up.
///
/// One thread. Calls of some milliseconds, one transaction each. Errors: denied, unavailable (no br_netfilter),
/// internal (the kernel's words), invalid (an address or range that is none).
class GroupFilter {
 public:
  /// `prefix`: begins the names of all devices here; `network_namespace`: descriptor, -1 = the caller's. Reads what an
  /// earlier agent has left.
  static Result<GroupFilter> open(const std::string& prefix, int network_namespace);

  /// What a port is called on this host.
  struct Device {
    std::string tap;
    PortGroups port;
  };

  /// See Fabric::guard(); `devices` are groups.ports. What the kernel did not take is tried again with the next call.
  Result<void> take(const FabricGroups& groups, const std::vector<Device>& devices);

  /// Nothing passes at the port until take() names it. One that is filtered already stays as it is.
  Result<void> close(const std::string& tap, std::uint32_t vni, const std::string& address);

  /// A port that is not known counts as forgotten.
  Result<void> forget(const std::string& tap);

  Result<void> remove_all();

  /// Whether the kernel asks the groups of a port that is filtered: its own chains, and what leads there. Errors beside
  /// the others: conflict (it does not: says in what).
  Result<void> check(const std::string& tap);

  /// Those that are filtered.
  std::set<std::string> taps() const;

  /// Networks with filtered ports: their bridges must hand packets to the tracking.
  std::set<std::uint32_t> networks() const;

  static constexpr int kPickUpSeconds = 600;

 private:
  /// A group on one network.
  using Part = std::pair<std::uint32_t, std::string>;
  struct Guarded {
    std::uint32_t vni = 0;
    std::string address;
    std::vector<std::string> groups;  ///< none = closed
  };
  /// What the next transaction says anew.
  struct Pending {
    std::set<std::string> ports;
    std::set<Part> rules;
    std::set<Part> members;
  };

  GroupFilter(std::string prefix, Nftables nftables, NetlinkSocket connections);
  Result<void> read_present();
  void read_entry(const boost::json::object& entry);
  Result<void> check_groups(const FabricGroups& groups, const std::vector<Device>& devices) const;
  Result<void> commit(const std::string& what);
  std::set<Part> parts_in_use() const;
  void give_zones();
  std::string base_text() const;
  std::string zones_text() const;
  std::string part_text(const Part& part) const;
  std::string rules_text(const Part& part) const;
  std::string members_text(const Part& part) const;
  std::string port_text(const std::string& tap, const Guarded& port) const;
  std::string ports_text() const;
  std::string removal_text(const std::set<std::string>& kept) const;
  bool stays(const std::string& tap) const;
  Result<void> remove_tables(const std::string& what);
  std::string bridge(std::uint32_t vni) const;
  Result<void> forget_connections(const std::vector<Guarded>& ports);
  Result<void> forget_connections(const Guarded& port);

  std::string prefix_;
  std::string table_;
  Nftables nftables_;
  NetlinkSocket connections_;
  std::map<std::string, Guarded> ports_;          ///< by tap; as they shall be
  std::map<std::string, Guarded> there_;          ///< by tap; as the kernel filters them
  std::map<std::uint32_t, std::uint16_t> zones_;  ///< by VNI
  std::map<Part, std::vector<SecurityRule>> rules_;
  std::map<Part, std::set<std::string>> members_;
  std::set<std::string> chains_;  ///< names of parts that the kernel has
  Pending pending_;
  bool informed_ = false;  ///< all parts that ports use were told since the agent began
};

}  // namespace virga
