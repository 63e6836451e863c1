#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "driver/net/cable.h"
#include "driver/net/netlink.h"
#include "driver/net/nftables.h"

namespace virga {

struct WayOutOptions {
  std::string device{};                  ///< of the host, leads outside; empty = this host does not
  std::vector<std::string> closed{};     ///< ranges that guests do not reach: "192.0.2.0/24"
  std::vector<std::string> resolvers{};  ///< IPv4; reached at port 53 though they lie in `closed`
};

/// The host's side of gateways that lead out. Each has a cable `<prefix>u<vni>` with a /31 of its own out of
/// 169.254.64.0/20; the kernel is the only memory of which. A table `<prefix>out` of family ip lets them reach what is
/// behind the outside device and nothing else: not the host, not each other, not the closed ranges, nor anything
/// link-local; answers come back, and what is for a floating address that leads here, nothing else. What goes out has
/// the host's own address, or the floating one of its guest. The host answers ARP for floating addresses on the outside
/// device. Routes and answers that are of this carry the protocol number 118; the kernel is the only memory of them.
///
/// A host that routes (`net.ipv4.ip_forward` is 1) goes on as it does. On another, the outside device forwards to
/// gateways alone, and only while there are some.
///
/// One thread. Plain calls of milliseconds. Errors: denied, internal (the kernel's words).
class WayOut {
 public:
  /// `network_namespace`: descriptor, must stay open; -1 = the caller's. Errors beside: invalid (a range or resolver).
  static Result<WayOut> open(const std::string& prefix, WayOutOptions options,
                             int network_namespace);

  bool offered() const { return !options_.device.empty(); }

  /// Leads the gateway in `space` out by its device "out". Errors beside: not_found (the outside device is gone),
  /// exhausted (2,048 are there).
  Result<void> join(std::uint32_t vni, int space);

  /// One that is not there counts as parted.
  Result<void> part(std::uint32_t vni);

  /// From now on the outside reaches these addresses through the gateway, which has joined, and no others through it;
  /// whether one of them is new. Those are announced. Host byte order.
  Result<bool> lead(std::uint32_t vni, const std::set<std::uint32_t>& floating);

  /// Tells the outside once more where all of them are.
  Result<void> announce();

 private:
  WayOut(std::string prefix, WayOutOptions options, int network_namespace, NetlinkSocket socket,
         Nftables nftables);
  std::string device_name(std::uint32_t vni) const;
  Result<bool> routes() const;
  Result<std::string> table_text() const;
  Result<std::uint32_t> choose_link(const std::string& name);
  std::string present_device();
  /// Floating addresses that lead somewhere, with the device that they lead to; host byte order.
  Result<std::map<std::uint32_t, int>> led();
  Result<void> change_answer(std::uint32_t address, int device, bool add);
  Result<void> forget_answers(const std::map<std::uint32_t, int>& kept, int device);
  Result<void> say_where(const std::set<std::uint32_t>& addresses);
  Result<void> release(const std::string& kept);
  Result<void> close();

  std::string prefix_;
  WayOutOptions options_;
  int network_namespace_;
  NetlinkSocket socket_;
  Nftables nftables_;
};

}  // namespace virga
