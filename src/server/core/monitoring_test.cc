#include "server/core/monitoring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "model/keys.h"
#include "sim/sim_loop.h"
#include "store/memory_store.h"

namespace virga {
namespace {

/// A service that promises something, two hosts that report what the test says, and what they are
/// told.
class MonitoringTest : public ::testing::Test, public HostLinks {
 protected:
  MonitoringTest()
      : store_(loop_, Rng(1), {}),
        mirror_(loop_, store_),
        sessions_(loop_, store_, mirror_, *this) {
    Cluster cluster;
    cluster.meta.name = "c1";
    put(cluster);
    for (const char* name : {"host-1", "host-2"}) {
      Host host;
      host.meta.name = name;
      host.spec.cluster = cluster.id();
      host.status.health = HostHealth::alive;
      put(host);
    }
    Network network;
    network.meta.tenant = "acme";
    network.meta.name = "front";
    network.spec = {cluster.id(), 77, "10.50.0.0/24", 1450};
    put(network);
    Port port;
    port.meta.tenant = "acme";
    port.meta.name = "web-monitor";
    port.spec.service = kWeb;
    port.spec.network = network.id();
    port.spec.mac = "52:54:00:00:32:09";
    port.spec.address = "10.50.0.9/24";
    put(port);
    edit([&](Service& service) {
      service.meta.tenant = "acme";
      service.meta.name = "web";
      service.spec.cluster = cluster.id();
      service.spec.frontend.address = "10.50.0.10";
      service.spec.objective.availability_ppm = 999'000;
      service.status.monitor = HostId("host-1");
    });
    mirror_.open([](const Result<void>& opened) { EXPECT_TRUE(opened.ok()); });
    loop_.run_for(milliseconds(100));
    mirror_.listen([this](const std::vector<Change>& changes) {
      if (monitoring_ != nullptr) monitoring_->changed(changes);
    });
    sessions_.set_probe_keys([](const ClusterId&) { return "00ff"; });
    sessions_.start([](const HostId&) {}, [](const HostId&) {}, [](const Event&) {});
    for (const int number : {1, 2}) hello(number);
    begin();
  }

  /// A server begins: what the one before knew is in the store.
  void begin() {
    monitoring_ = std::make_unique<Monitoring>(loop_, store_, mirror_, sessions_, names_);
    monitoring_->start();
    for (const char* name : {"host-1", "host-2"}) monitoring_->connected(HostId(name));
  }

  template <typename T>
  void put(const T& resource) {
    Transaction transaction;
    transaction.put(resource);
    store_.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
  }
  void edit(const std::function<void(Service&)>& change) {
    const Service* stored = mirror_.view().services.find(kWeb);
    Service changed = stored == nullptr ? Service() : *stored;
    change(changed);
    put(changed);
    loop_.run_for(milliseconds(100));
  }
  void use_monitor(const std::string& host) {
    edit([&](Service& service) { service.status.monitor = HostId(host); });
  }

  void send(SessionId session, const ServerMessage& message) override {
    if (message.probes) told_[session] = message.probes->probes;
  }
  void close(SessionId) override {}

  void hello(int number) {
    const auto session = static_cast<SessionId>(number);
    const std::string name = "host-" + std::to_string(number);
    sessions_.opened(session, "agent:" + name);
    AgentMessage message;
    message.hello = Hello();
    message.hello->host = HostId(name);
    message.hello->features = agent_features();
    sessions_.received(session, std::move(message));
  }

  void report(int number, std::optional<ObservedProbe> probe) {
    AgentMessage message;
    message.report = HostReport();
    message.report->sequence = ++sequence_;
    if (probe) message.report->probes.push_back(std::move(*probe));
    sessions_.received(static_cast<SessionId>(number), std::move(message));
  }

  static ObservedProbe counted(std::int64_t asked, std::int64_t failed, bool fails) {
    ObservedProbe probe;
    probe.service = kWeb;
    probe.counters = "run-1";
    probe.asked = asked;
    probe.failed = failed;
    probe.responses = {asked - failed};
    if (fails) probe.failing = "no answer";
    return probe;
  }

  /// A report a second from this host; `growth` requests more in each, all of them failed or none.
  void pass(Duration time, int number, std::int64_t growth, bool fails = false) {
    for (const Instant end = loop_.now() + time; loop_.now() < end;) {
      asked_ += growth;
      failed_ += fails ? growth : 0;
      report(number, counted(asked_, failed_, fails));
      monitoring_->tick();
      loop_.run_for(seconds(1));
    }
  }

  const ServiceLevel* level() const { return mirror_.view().levels.find(LevelId(kWeb.value)); }

  int count(const std::string& kind) {
    int found = 0;
    ListRequest request;
    request.prefix = std::string(keys::kOutbox);
    store_.list(request, [&](const Result<Page>& page) {
      ASSERT_TRUE(page.ok());
      for (const KeyValue& entry : page->entries) {
        found += entry.value.find("\"" + kind + "\"") != std::string::npos ? 1 : 0;
      }
    });
    loop_.run_for(milliseconds(10));
    return found;
  }

  static inline const ServiceId kWeb{"acme/web"};
  SimLoop loop_;
  MemoryStore store_;
  StoreMirror mirror_;
  AgentSessions sessions_;
  NameSource names_;
  std::unique_ptr<Monitoring> monitoring_;
  std::map<SessionId, std::vector<ServiceProbe>> told_;
  std::uint64_t sequence_ = 0;
  std::int64_t asked_ = 0;
  std::int64_t failed_ = 0;
};

TEST_F(MonitoringTest, A3_22_R_B9_hosts_are_told_whom_to_ask_and_whom_no_more) {
  ASSERT_EQ(told_[1].size(), 1U);
  EXPECT_EQ(told_[1][0].address, "10.50.0.10");
  EXPECT_EQ(told_[1][0].every_ms, seconds(1));
  EXPECT_TRUE(told_[2].empty());
  edit([](Service& service) { service.status.relocation.emplace(); });
  EXPECT_EQ(told_[1].at(0).every_ms, kRelocationProbes) << "it is watched closely at once";
  use_monitor("host-2");
  EXPECT_TRUE(told_[1].empty());
  ASSERT_EQ(told_[2].size(), 1U);
  edit([](Service& service) { service.spec.objective.availability_ppm = 0; });
  EXPECT_TRUE(told_[2].empty());
  EXPECT_FALSE(monitoring_->report(kWeb));
}

TEST_F(MonitoringTest, A3_21_R_B9_counts_are_kept_once_a_minute_and_go_on_under_the_next_server) {
  pass(seconds(5), 1, 1);
  ASSERT_NE(level(), nullptr) << "the first is kept at once";
  pass(seconds(70), 1, 1);
  ASSERT_EQ(level()->days.size(), 1U);
  const std::int64_t kept = level()->days[0].asked;
  EXPECT_GT(kept, 50);
  begin();
  pass(seconds(70), 1, 1);
  EXPECT_GT(level()->days[0].asked, kept + 60);
  EXPECT_LE(level()->days[0].asked, asked_) << "nothing is counted twice";
}

TEST_F(MonitoringTest, A3_21_R_B9_a_broken_promise_is_noticed_and_told_once) {
  edit([](Service& service) { service.spec.objective.window_days = 1; });
  pass(seconds(20), 1, 1);
  EXPECT_FALSE(monitoring_->failing_for(kWeb));
  pass(seconds(10), 1, 1, true);
  ASSERT_TRUE(monitoring_->failing_for(kWeb));
  EXPECT_GE(*monitoring_->failing_for(kWeb), seconds(8));
  pass(seconds(200), 1, 1, true);
  EXPECT_TRUE(monitoring_->spent(kWeb));
  EXPECT_EQ(count("service.level_breached"), 1);
  pass(seconds(5), 1, 1);
  EXPECT_FALSE(monitoring_->failing_for(kWeb));
}

TEST_F(MonitoringTest, A3_21_R_B9_the_level_of_a_service_that_promises_nothing_any_more_goes) {
  pass(seconds(70), 1, 1);
  ASSERT_NE(level(), nullptr);
  edit([](Service& service) { service.spec.objective.availability_ppm = 0; });
  monitoring_->tick();
  loop_.run_for(seconds(1));
  EXPECT_EQ(level(), nullptr);
}

TEST_F(MonitoringTest, A3_22_R_B9_a_monitor_that_asks_nobody_is_mute_after_a_minute) {
  pass(seconds(600), 1, 1, true);
  EXPECT_FALSE(monitoring_->mute(kWeb)) << "nobody answers; it asks";
  pass(seconds(50), 1, 0);
  EXPECT_FALSE(monitoring_->mute(kWeb));
  pass(seconds(20), 1, 0);
  EXPECT_TRUE(monitoring_->mute(kWeb));
  pass(seconds(2), 1, 1);
  EXPECT_FALSE(monitoring_->mute(kWeb));
}

TEST_F(MonitoringTest, A3_22_R_B9_of_a_host_that_is_silent_nobody_knows_whether_it_asks) {
  pass(seconds(30), 1, 1);
  for (int second = 0; second < 600; ++second) {
    monitoring_->tick();
    loop_.run_for(seconds(1));
  }
  pass(seconds(30), 1, 0);
  EXPECT_FALSE(monitoring_->mute(kWeb)) << "half a minute is what is known";
  pass(seconds(40), 1, 0);
  EXPECT_TRUE(monitoring_->mute(kWeb));
}

TEST_F(MonitoringTest, A3_22_R_B9_monitors_that_cannot_ask_take_turns_ever_more_slowly) {
  const auto mute_after = [this](int number) {
    use_monitor("host-" + std::to_string(number));
    asked_ = failed_ = 0;
    int minutes = 0;
    for (; !monitoring_->mute(kWeb) && minutes < 200; ++minutes) pass(seconds(60), number, 0);
    return minutes;
  };
  EXPECT_EQ(mute_after(1), 2);
  const int second = mute_after(2);
  EXPECT_GE(second, 2);
  const int third = mute_after(1);
  EXPECT_GT(third, second);
  int last = third;
  for (int turn = 0; turn < 8; ++turn) last = mute_after(2 - turn % 2);
  EXPECT_GE(last, 60) << "an hour";
  EXPECT_LE(last, 80);
  // One that asks ends that.
  use_monitor("host-2");
  pass(seconds(5), 2, 1);
  EXPECT_LE(mute_after(1), 2);
}

}  // namespace
}  // namespace virga
