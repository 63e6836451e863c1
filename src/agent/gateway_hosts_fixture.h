#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <filesystem>

#include "../tests/tools/temp_folder.h"
#include "agent/gateway_fixture.h"
#include "agent/gateway_folders.h"
#include "driver/dnsmasq/dnsmasq_server.h"

/// Hosts as network namespaces on one segment outside, with what agents do for gateways.
namespace virga::test {

namespace fs = std::filesystem;

inline constexpr std::uint32_t kVni = 1001;
inline constexpr std::uint32_t kOtherVni = 1002;  // of another tenant, with the same addresses
inline const std::string kFar = "198.51.100.7";   // somebody outside
inline const std::string kNear = "192.0.2.53";  // also there, in a network that is closed to guests
inline constexpr int kSilenceMs = 1500;

/// What one run of an agent has of networks and gateways.
struct AgentRun {
  AgentRun(AsioLoop& loop, Worker& worker, const LinuxFabricOptions& options,
           const std::string& directory)
      : fabric(std::move(*LinuxFabric::open(loop, options))),
        folders(directory,
                [&loop, &worker, resolvers = options.outside.resolvers](
                    const std::string& folder, const std::string& network_namespace) {
                  DnsmasqOptions made;
                  made.directory = folder;
                  made.network_namespace = network_namespace;
                  made.resolvers = resolvers;
                  return std::make_unique<DnsmasqServer>(loop, worker, made);
                }),
        gateways(std::make_unique<Gateways>(loop, *fabric, &folders, [this](const Error& why) {
          failures.push_back(why.text());
        })) {
    gateways->start();
  }

  std::vector<std::string> failures;
  std::unique_ptr<LinuxFabric> fabric;
  GatewayFolders folders;
  std::unique_ptr<Gateways> gateways;
};

class GatewayHosts : public ::testing::Test {
 protected:
  GatewayHosts() {
    ::chmod(folder_.path().c_str(), 0755);
    join(one_, "10.77.0.1", two_, "10.77.0.2");
    ip_in(outside_.get(), "link add segment type bridge");
    ip_in(outside_.get(), "addr add 203.0.113.9/24 dev segment");
    ip_in(outside_.get(), "link set segment up");
    lead_outside(one_, "a", "203.0.113.1");
    lead_outside(two_, "b", "203.0.113.2");
    ip_in(outside_.get(), "link set lo up");
    ip_in(outside_.get(), "addr add " + kFar + "/32 dev lo");
    ip_in(outside_.get(), "addr add " + kNear + "/32 dev lo");
    near_ = run_agent(one_, "10.77.0.1");
    away_ = run_agent(two_, "10.77.0.2");
    Network other = network("rival", kOtherVni);
    const FabricState state{1, {network("acme", kVni), other}, {}};
    for (AgentRun* agent : agents()) check([&](auto done) { agent->fabric->apply(state, done); });
  }

  ~GatewayHosts() override {
    near_->gateways.reset();  // who would start again what is ended here
    away_->gateways.reset();
    for (const pid_t pid : processes()) ::kill(pid, SIGKILL);
    EXPECT_TRUE(run_until([&] { return processes().empty(); }));
    for (AgentRun* agent : agents()) check([&](auto done) { agent->fabric->remove_all(done); });
  }

  /// A cable from a host to the segment outside, where its default route leads.
  void lead_outside(const Namespace& host, const std::string& letter, const std::string& address) {
    ip_in(outside_.get(),
          fmt::format("link add to-{} type veth peer name out0 netns /proc/{}/fd/{}", letter,
                      ::getpid(), host.get()));
    ip_in(outside_.get(), fmt::format("link set to-{} master segment up", letter));
    ip_in(host.get(), fmt::format("addr add {}/24 dev out0", address));
    ip_in(host.get(), "link set out0 up");
    run_in(host.get(), {"/bin/sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"});
    ip_in(host.get(), "route add default via 203.0.113.9");
  }

  LinuxFabricOptions options(const Namespace& host, const std::string& address) const {
    const std::string begin = "virga-" + std::to_string(::getpid()) + address.back() + "-";
    LinuxFabricOptions made{"uplink", address, "vgt", host.get(), true, begin};
    made.outside = {way_out_ ? "out0" : "", {"10.77.0.0/24", "192.0.2.0/24"}, {kFar, kNear}};
    return made;
  }
  std::unique_ptr<AgentRun> run_agent(const Namespace& host, const std::string& address) {
    return std::make_unique<AgentRun>(loop_, worker_, options(host, address),
                                      folder_.file(address));
  }
  std::vector<AgentRun*> agents() const { return {near_.get(), away_.get()}; }

  /// As after kill -9: what it has started goes on.
  void restart_agent() {
    near_.reset();
    near_ = run_agent(one_, "10.77.0.1");
  }

  static GatewayMember member(int last, const std::string& name, std::uint32_t vni = kVni) {
    return {vni, "acme/" + name + "-0", mac_of(vni, last), "10.50.0." + std::to_string(last), name};
  }
  static std::string mac_of(std::uint32_t vni, int last) {
    return fmt::format("52:54:00:00:{:02x}:{:02x}", vni & 255, last);
  }
  static GatewayNetwork gateway(bool nat, std::uint32_t vni = kVni) {
    return {vni, "10.50.0.1/24", vni == kVni ? "net.acme.virga" : "net.rival.virga", 1450, nat};
  }

  /// Returns when those that were named serve.
  void tell(AgentRun& agent, const std::vector<GatewayNetwork>& networks,
            const std::vector<GatewayMember>& members, bool whole = true) {
    FabricGateways told;
    told.whole = whole;
    told.networks = networks;
    told.members = members;
    agent.gateways->take(told);
    for (const GatewayNetwork& network : networks) {
      const std::string folder = &agent == near_.get() ? "10.77.0.1" : "10.77.0.2";
      const std::string made = fmt::format("{}/{}/driver/pid", folder_.file(folder), network.vni);
      EXPECT_TRUE(run_until([&] { return fs::exists(made); })) << made;
    }
  }

  static LaunchNic nic_of(int last, std::uint32_t vni = kVni, bool guarded = false) {
    LaunchNic nic;
    nic.port = fmt::format("{}-{}", vni, last);
    nic.vni = vni;
    nic.mac = mac_of(vni, last);
    nic.address = fmt::format("10.50.0.{}/24", last);
    nic.guarded = guarded;
    return nic;
  }

  /// Says to both hosts where a guest's port is, and which floating address leads to it.
  void place(const AgentRun& agent, int last, const std::string& floating = "",
             std::uint32_t vni = kVni) {
    const std::string host = &agent == near_.get() ? "10.77.0.1" : "10.77.0.2";
    for (AgentRun* each : agents()) {
      const FabricPlaces at{
          {}, {{vni, mac_of(vni, last), fmt::format("10.50.0.{}", last), host, floating}}, false};
      check([&](auto done) { each->fabric->place(at, done); });
    }
  }

  std::unique_ptr<DhcpGuest> guest(AgentRun& agent, int last, std::uint32_t vni = kVni,
                                   bool guarded = false, const std::string& floating = "") {
    const LaunchNic nic = nic_of(last, vni, guarded);
    place(agent, last, floating, vni);
    std::optional<Result<OpenPort>> port;
    agent.fabric->open_port(nic, [&](Result<OpenPort> opened) { port = std::move(opened); });
    EXPECT_TRUE(run_until([&] { return port.has_value(); }));
    EXPECT_TRUE(port->ok()) << port->error().text();
    return std::make_unique<DhcpGuest>(Descriptor(port->ok() ? (*port)->tap_descriptor : -1),
                                       nic.mac, folder_.path());
  }

  bool run_until(const std::function<bool()>& condition) {
    const Instant end = loop_.now() + milliseconds(kDeadlineMs);
    while (!condition() && loop_.now() < end) {
      loop_.after(milliseconds(2), [this] { loop_.stop(); });
      loop_.run();
    }
    return condition();
  }
  template <typename Call>
  void check(Call call) {
    std::optional<Result<void>> outcome;
    call([&](Result<void> result) { outcome = std::move(result); });
    ASSERT_TRUE(run_until([&] { return outcome.has_value(); }));
    EXPECT_TRUE(outcome->ok()) << outcome->error().text();
  }

  /// All that run on files of this test.
  std::vector<pid_t> processes(const std::string& below = "") const {
    std::vector<pid_t> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const auto words = read_file(entry.path().string() + "/cmdline");
      const std::string file = "--conf-file=" + folder_.path() + "/" + below;
      if (words && words->find(file) != std::string::npos)
        found.push_back(static_cast<pid_t>(std::stol(entry.path().filename().string())));
    }
    return found;
  }
  /// Waits until its files say so and the process has read them.
  bool answers(const DhcpGuest& asker, const std::string& name, const std::string& answer) {
    return run_until([&] { return asker.ask(name) == answer; });
  }
  std::string ruleset(const Namespace& host) const {
    return run_in(host.get(), {"/usr/sbin/nft", "list", "ruleset"}).out;
  }

  TempFolder folder_{"/run"};  // dnsmasq is another user, whom nobody lets into TMPDIR
  AsioLoop loop_;
  Worker worker_{loop_, 1, 64};
  bool way_out_ = true;
  Namespace one_;
  Namespace two_;
  Namespace outside_;
  std::unique_ptr<AgentRun> near_;
  std::unique_ptr<AgentRun> away_;
};

}  // namespace virga::test
