#include "arch/service_relocation/controller.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "sim/sim_loop.h"
#include "store/memory_store.h"

namespace virga {
namespace {

/// Hosts h1 and h2 as they really are: their balancers. They outlive every run of the server.
struct FakeHosts {
  std::map<std::pair<ServiceId, HostId>, BalancerCommand> balancers;
  std::set<std::string> broken;  ///< copies that their checks find dead
  std::map<std::string, std::int64_t> totals;
  std::set<HostId> away;
  std::vector<CommandKind> commands;
  std::optional<Error> failing;
};

class FakeServer : private HostCommands {
 public:
  FakeServer(SimLoop& world, FakeHosts& hosts, std::shared_ptr<MemoryDisk> disk)
      : hosts_(hosts),
        process_(world),
        store_(process_, Rng(1), {}, std::move(disk)),
        mirror_(process_, store_),
        controller_(process_, store_, mirror_, *this, names_) {
    mirror_.set_incarnation(1);
    mirror_.open([this](Result<void> opened) {
      if (!opened) return;
      controller_.start([this](const ClusterId&) { return observe(); });
      tick();
    });
  }
  ~FakeServer() override { process_.end(); }

  const ClusterView& view() const { return mirror_.view(); }
  MemoryStore& store() { return store_; }

 private:
  void call(const HostId& host, Command command, Duration, Callback<CommandResult> done,
            Progress) override {
    process_.after(milliseconds(20), [this, host, command = std::move(command), done] {
      hosts_.commands.push_back(command.kind);
      if (hosts_.away.contains(host)) return done(make_error(Errc::unavailable, "no session"));
      if (hosts_.failing) return done(*hosts_.failing);
      const std::pair place{command.balancer->service, host};
      if (command.kind == CommandKind::apply_balancer) hosts_.balancers[place] = *command.balancer;
      if (command.kind == CommandKind::remove_balancer) hosts_.balancers.erase(place);
      CommandResult result;
      result.ok = true;
      done(result);
    });
  }

  ServiceEvidence observe() const {
    ServiceEvidence evidence;
    for (const char* name : {"h1", "h2"})
      evidence.hosts[HostId(name)].reports = !hosts_.away.contains(HostId(name));
    for (const auto& [place, balancer] : hosts_.balancers) {
      ServiceBalancer& seen = evidence.hosts[place.second].balancers[place.first];
      seen.running = true;
      seen.seen.revision = balancer.spec.revision;
      seen.seen.frontends.emplace_back();
      for (const BalancerServer& server : balancer.spec.pools.front().servers) {
        const Vm* vm = view().vms.find(VmId("acme/" + server.name));
        ObservedBalancerServer& one = seen.seen.servers.emplace_back();
        one.pool = "copies";
        one.name = server.name;
        one.state = server.state;
        const bool runs = vm != nullptr && vm->status.power == VmPower::running;
        one.health = runs && !hosts_.broken.contains(server.name) ? BalancerHealth::up
                                                                  : BalancerHealth::down;
        const auto total = hosts_.totals.find(server.name);
        one.total = total == hosts_.totals.end() ? 1 : total->second;
      }
    }
    return evidence;
  }

  /// The cluster room's part, at once.
  void tick() {
    controller_.tick();
    for (const auto& [id, vm] : view().vms.all()) {
      Transaction transaction;
      if (vm->meta.deleting_at) {
        transaction.erase(*vm);
        for (const std::string& key : view().keys_of(id)) {
          if (key != keys::of(id)) transaction.erase_with(key);
        }
      } else if (vm->status.power != VmPower::running) {
        Vm runs = *vm;
        runs.status.power = VmPower::running;
        runs.status.host = vm->spec.pinned_host.empty() ? HostId("h1") : vm->spec.pinned_host;
        transaction.put(runs);
      }
      if (transaction.empty()) continue;
      store_.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
    }
    process_.after(milliseconds(250), [this] { tick(); });
  }

  FakeHosts& hosts_;
  SimProcess process_;
  MemoryStore store_;
  NameSource names_;
  StoreMirror mirror_;
  ServiceController controller_;
};

class ServiceControllerTest : public testing::Test {
 protected:
  ServiceControllerTest() {
    Transaction seeds;
    Cluster cluster;
    cluster.meta.name = "c1";
    seeds.put(cluster);
    for (const char* name : {"h1", "h2"}) {
      Host host;
      host.meta.name = name;
      host.spec.cluster = ClusterId("c1");
      host.status.health = HostHealth::alive;
      host.status.capacity = {{8000}, {8192}};
      seeds.put(host);
    }
    Image image;
    image.meta.name = "tiny";
    seeds.put(image);
    Network network;
    network.meta.tenant = "acme";
    network.meta.name = "front";
    network.spec = {ClusterId("c1"), 7, "10.50.0.0/24", 1400};
    seeds.put(network);
    Service service;
    service.meta.tenant = "acme";
    service.meta.name = "web";
    service.spec.cluster = ClusterId("c1");
    service.spec.vm.image = ImageId("tiny");
    service.spec.vm.network = "front";
    service.spec.frontend.address = "10.50.0.10";
    seeds.put(service);
    Port port;
    port.meta.tenant = "acme";
    port.meta.name = "web-frontend";
    port.spec.network = network.id();
    port.spec.mac = "52:54:00:00:00:10";
    port.spec.address = "10.50.0.10/24";
    port.spec.service = service.id();
    seeds.put(port);
    seeds.write(keys::address(network.id(), port.spec.address), 0, port.id().value);
    disk->state.apply(seeds.writes());
    server = std::make_unique<FakeServer>(loop, hosts, disk);
  }

  bool until(const std::function<bool()>& done) { return loop.run_until_true(done, seconds(300)); }
  const Service* web() const { return server->view().services.find(ServiceId("acme/web")); }
  bool serves() const {
    const Service* service = web();
    if (service == nullptr || !service->status.available) return false;
    if (service->status.relocation) return false;
    const auto& copies = service->status.copies;
    return copies.size() == 2 && std::all_of(copies.begin(), copies.end(), [](const auto& copy) {
             return copy.state == ServiceCopyState::serving;
           });
  }
  template <typename T, typename Change>
  void edit(const T* stored, const Change& change) {
    bool done = false;
    T changed = *stored;
    change(changed);
    Transaction transaction;
    transaction.put(changed);
    server->store().commit(transaction.guards(), transaction.writes(),
                           [&](Result<CommitOutcome>) { done = true; });
    ASSERT_TRUE(until([&] { return done; }));
  }
  int events(const std::string& kind) const {
    int found = 0;
    const auto page = disk->state.list({std::string(keys::kOutbox), "", 0, StoreLimits::kPageMax});
    for (const KeyValue& entry : page->entries) {
      found += from_json_text<Event>(entry.value)->kind == "service." + kind ? 1 : 0;
    }
    return found;
  }

  SimLoop loop;
  FakeHosts hosts;
  std::shared_ptr<MemoryDisk> disk = std::make_shared<MemoryDisk>();
  std::unique_ptr<FakeServer> server;
};

TEST_F(ServiceControllerTest, R_B5_ItsCopiesAreVmsWithPortsBehindItsBalancer) {
  ASSERT_TRUE(until([&] { return serves(); }));
  const Vm* vm = server->view().vms.find(VmId("acme/web-c1"));
  ASSERT_NE(vm, nullptr);
  EXPECT_EQ(vm->spec.service, ServiceId("acme/web"));
  EXPECT_EQ(vm->spec.pinned_host, HostId());
  const auto ports = server->view().ports_of(vm->id());
  ASSERT_EQ(ports.size(), 1U);
  EXPECT_EQ(ports.front()->spec.address, "10.50.0.11/24");
  EXPECT_NE(disk->state.find(keys::address(NetworkId("acme/front"), "10.50.0.11")), nullptr);
  const BalancerCommand& told = hosts.balancers.at({web()->id(), web()->status.balancer});
  EXPECT_EQ(told.leg.vni, 7U);
  EXPECT_EQ(told.leg.address, "10.50.0.10/24");
  EXPECT_EQ(told.leg.mac, "52:54:00:00:00:10");
  EXPECT_EQ(told.leg.mtu, 1400);
  EXPECT_EQ(events("available"), 1);
}

TEST_F(ServiceControllerTest, A3_02_A3_05_A3_10_AMaintenanceReplacesACopyWithoutAGap) {
  ASSERT_TRUE(until([&] { return serves(); }));
  const VmId original = web()->status.copies.front().vm;
  const HostId source = server->view().vms.find(original)->status.host;
  hosts.totals["web-c3"] = 0;
  edit(server->view().hosts.find(source), [](Host& host) { host.spec.maintenance = true; });
  ASSERT_TRUE(until([&] {
    const ServiceCopy* copy = web()->find_copy(VmId("acme/web-c3"));
    return copy != nullptr && copy->state == ServiceCopyState::serving;
  }));
  hosts.totals["web-c3"] = 1;
  ASSERT_TRUE(until([&] { return server->view().vms.find(original) == nullptr; }));
  ASSERT_TRUE(until([&] { return serves(); }));
  EXPECT_EQ(events("relocated"), 1);
  EXPECT_EQ(events("unavailable"), 0);
}

TEST_F(ServiceControllerTest, A3_10_R_F1_AServerThatIsKilledInARelocationIsFollowedByAnother) {
  ASSERT_TRUE(until([&] { return serves(); }));
  edit(web(), [](Service& service) {
    service.spec.relocate = {"web-c1", HostId(), RelocationMode::duplicate, {}};
  });
  ASSERT_TRUE(until([&] { return web()->status.relocation.has_value(); }));
  server.reset();
  server = std::make_unique<FakeServer>(loop, hosts, disk);
  ASSERT_TRUE(until([&] { return serves() && web()->find_copy(VmId("acme/web-c1")) == nullptr; }));
  EXPECT_EQ(events("relocated"), 1);
  EXPECT_EQ(events("unavailable"), 0);
}

TEST_F(ServiceControllerTest, A3_04_ACopyThatNeverAnswersIsGivenUpInTime) {
  ASSERT_TRUE(until([&] { return serves(); }));
  hosts.broken.insert("web-c3");
  edit(web(), [](Service& service) {
    service.spec.relocate = {"web-c1", HostId(), RelocationMode::duplicate, {}};
  });
  ASSERT_TRUE(until([&] { return events("relocation_failed") == 1; }));
  ASSERT_TRUE(until([&] { return serves(); }));
  EXPECT_NE(web()->find_copy(VmId("acme/web-c1")), nullptr);
  EXPECT_EQ(events("unavailable"), 0);
}

TEST_F(ServiceControllerTest, R_B5_ACommandThatFailsIsTriedAgainWithPauses) {
  ASSERT_TRUE(until([&] { return serves(); }));
  hosts.failing = make_error(Errc::unavailable, "HAProxy is not there");
  hosts.commands.clear();
  edit(web(), [](Service& service) { service.spec.replicas = 3; });
  loop.run_for(seconds(60));
  EXPECT_LT(hosts.commands.size(), 20U);
  hosts.failing.reset();
  ASSERT_TRUE(until([&] { return web()->status.copies.size() == 3 && web()->status.available; }));
}

TEST_F(ServiceControllerTest, R_B5_DeletingLeavesNothing) {
  ASSERT_TRUE(until([&] { return serves(); }));
  edit(web(), [](Service& service) { service.meta.deleting_at = WallTime{1}; });
  ASSERT_TRUE(until([&] { return web() == nullptr; }));
  EXPECT_TRUE(hosts.balancers.empty());
  EXPECT_EQ(server->view().ports.size(), 0U);
  EXPECT_EQ(server->view().vms.size(), 0U);
  EXPECT_EQ(disk->state.find(keys::address(NetworkId("acme/front"), "10.50.0.10")), nullptr);
}

TEST_F(ServiceControllerTest, R_B5_AQuietServiceWritesNothing) {
  ASSERT_TRUE(until([&] { return serves(); }));
  loop.run_for(seconds(10));
  const Revision before = server->view().revision;
  loop.run_for(seconds(60));
  EXPECT_EQ(server->view().revision, before);
}

}  // namespace
}  // namespace virga
