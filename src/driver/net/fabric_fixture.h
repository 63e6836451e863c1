#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <sched.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "driver/net/linux_fabric.h"
#include "edge/asio_loop.h"

/// Hosts as network namespaces, for tests of what a LinuxFabric does on them.
namespace virga::test {

constexpr int kDeadlineMs = 30'000;

/// A network namespace without a name: it ends with the last descriptor.
class Namespace {
 public:
  Namespace() {
    const Descriptor home(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(::unshare(CLONE_NEWNET), 0) << "making network namespaces needs CAP_SYS_ADMIN";
    descriptor_ = Descriptor(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(::setns(home.get(), CLONE_NEWNET), 0);
  }
  int get() const { return descriptor_.get(); }

  /// What a program of iproute2 says about it, as JSON.
  json::array ask(std::vector<std::string> arguments) const {
    ProcessOptions options;
    options.arguments = std::move(arguments);
    options.network_namespace = get();
    const auto ended = run_process(options, seconds(30));
    EXPECT_TRUE(ended.ok());
    if (!ended.ok() || ended->out.empty()) return {};
    const auto parsed = parse_json(ended->out);
    EXPECT_TRUE(parsed.ok()) << ended->out << ended->err;
    return parsed.ok() ? parsed->as_array() : json::array();
  }

  std::map<std::string, json::object> devices() const {
    std::map<std::string, json::object> found;
    for (const auto& device : ask({"/usr/sbin/ip", "-d", "-j", "link", "show"})) {
      found[device.at("ifname").as_string().c_str()] = device.as_object();
    }
    return found;
  }

  /// "MAC to PEER" of a tunnel.
  std::set<std::string> tunnel_entries(const std::string& tunnel) const {
    std::set<std::string> found;
    for (const auto& entry : ask({"/usr/sbin/bridge", "-j", "fdb", "show", "dev", tunnel})) {
      const auto& fields = entry.as_object();
      if (!fields.contains("dst")) continue;
      found.insert(std::string(fields.at("mac").as_string()) + " to " +
                   std::string(fields.at("dst").as_string()));
    }
    return found;
  }

 private:
  Descriptor descriptor_;
};

inline void address_device(NetlinkSocket& socket, const std::string& name,
                           const std::string& address) {
  int index = 0;
  ifinfomsg header{};
  socket.execute(NetlinkMessage(RTM_GETLINK, 0).header(header).text(IFLA_IFNAME, name),
                 [&index](std::string_view body) {
                   ifinfomsg seen{};
                   body.copy(reinterpret_cast<char*>(&seen), sizeof seen);
                   index = seen.ifi_index;
                 });
  header.ifi_index = index;
  header.ifi_flags = header.ifi_change = IFF_UP;
  ASSERT_EQ(socket.execute(NetlinkMessage(RTM_NEWLINK, 0).header(header)).error, 0);
  ifaddrmsg assigned{};
  assigned.ifa_family = AF_INET;
  assigned.ifa_prefixlen = 24;
  assigned.ifa_index = static_cast<unsigned>(index);
  in_addr value{};
  ASSERT_EQ(::inet_pton(AF_INET, address.c_str(), &value), 1);
  NetlinkMessage message(RTM_NEWADDR, NLM_F_CREATE);
  message.header(assigned).number(IFA_LOCAL, value.s_addr).number(IFA_ADDRESS, value.s_addr);
  ASSERT_EQ(socket.execute(message).error, 0);
}

/// Joins two namespaces by a cable whose ends are called "uplink" and have the addresses.
inline void join(const Namespace& left, const std::string& left_address, const Namespace& right,
                 const std::string& right_address) {
  auto socket = NetlinkSocket::open(left.get());
  auto other = NetlinkSocket::open(right.get());
  ASSERT_TRUE(socket.ok() && other.ok());
  NetlinkMessage cable(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  cable.header(ifinfomsg{})
      .text(IFLA_IFNAME, "uplink")
      .nest(IFLA_LINKINFO, [&](NetlinkMessage& info) {
        info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, [&](NetlinkMessage& data) {
          data.nest(VETH_INFO_PEER, [&](NetlinkMessage& peer) {
            peer.header(ifinfomsg{})
                .text(IFLA_IFNAME, "uplink")
                .number(IFLA_NET_NS_FD, right.get());
          });
        });
      });
  const auto made = socket->execute(cable);
  ASSERT_EQ(made.error, 0) << made.words;
  address_device(*socket, "uplink", left_address);
  address_device(*other, "uplink", right_address);
}

inline Network network(const std::string& tenant, std::uint32_t vni) {
  Network made;
  made.meta.tenant = tenant;
  made.meta.name = "net";
  made.spec.vni = vni;
  made.spec.subnet = "10.50.0.0/24";
  return made;
}

/// A LinuxFabric whose calls return when they are done.
class WaitingFabric {
 public:
  static Result<std::unique_ptr<WaitingFabric>> open(const LinuxFabricOptions& options) {
    auto made = std::make_unique<WaitingFabric>();
    auto fabric = LinuxFabric::open(made->loop_, options);
    if (!fabric) return fabric.error();
    made->fabric_ = std::move(*fabric);
    return made;
  }
  Result<void> apply(const FabricState& state) {
    return wait<void>([&](Callback<void> done) { fabric_->apply(state, std::move(done)); });
  }
  Result<void> place(const FabricPlaces& places) {
    return wait<void>([&](Callback<void> done) { fabric_->place(places, std::move(done)); });
  }
  Result<void> guard(const FabricGroups& groups) {
    return wait<void>([&](Callback<void> done) { fabric_->guard(groups, std::move(done)); });
  }
  Result<OpenPort> open_port(const LaunchNic& nic) {
    return wait<OpenPort>(
        [&](Callback<OpenPort> done) { fabric_->open_port(nic, std::move(done)); });
  }
  Result<void> inspect_port(const LaunchNic& nic) {
    return wait<void>([&](Callback<void> done) { fabric_->inspect_port(nic, std::move(done)); });
  }
  Result<void> close_port(const LaunchNic& nic) {
    return wait<void>([&](Callback<void> done) { fabric_->close_port(nic, std::move(done)); });
  }
  Result<std::shared_ptr<const int>> visit(const std::string& visitor, const BalancerLeg& leg) {
    return wait<std::shared_ptr<const int>>([&](Callback<std::shared_ptr<const int>> done) {
      fabric_->visit(visitor, leg, std::move(done));
    });
  }
  Result<void> leave(const std::string& visitor) {
    return wait<void>([&](Callback<void> done) { fabric_->leave(visitor, std::move(done)); });
  }
  Result<void> open_leg(const ServiceId& service, const BalancerLeg& leg) {
    return wait<void>([&](Callback<void> done) { fabric_->open_leg(service, leg, done); });
  }
  Result<void> close_leg(const ServiceId& service) {
    return wait<void>([&](Callback<void> done) { fabric_->close_leg(service, done); });
  }
  std::string leg_namespace(const ServiceId& service) const {
    return fabric_->leg_namespace(service);
  }
  Result<void> open_gateway(const GatewayNetwork& network) {
    return wait<void>([&](Callback<void> done) { fabric_->open_gateway(network, done); });
  }
  Result<void> close_gateway(std::uint32_t vni) {
    return wait<void>([&](Callback<void> done) { fabric_->close_gateway(vni, done); });
  }
  std::string gateway_namespace(std::uint32_t vni) const { return fabric_->gateway_namespace(vni); }
  std::string leg_name(const std::string& owner) const { return fabric_->leg_name(owner); }
  Result<void> remove_all() {
    return wait<void>([&](Callback<void> done) { fabric_->remove_all(std::move(done)); });
  }
  std::uint64_t version() const { return fabric_->version(); }
  std::string tap_name(const std::string& port) const { return fabric_->tap_name(port); }

 private:
  template <typename T>
  Result<T> wait(const std::function<void(Callback<T>)>& call) {
    std::optional<Result<T>> outcome;
    call([&](Result<T> result) {
      outcome = std::move(result);
      loop_.stop();
    });
    EXPECT_FALSE(outcome.has_value()) << "completed before the call returned";
    const TimerId deadline = loop_.after(seconds(30), [this] { loop_.stop(); });
    loop_.run();
    loop_.cancel(deadline);  // else it would end a later call
    return outcome ? *outcome : make_error(Errc::timeout, "the call did not complete in 30 s");
  }

  AsioLoop loop_;
  std::unique_ptr<LinuxFabric> fabric_;
};

}  // namespace virga::test
