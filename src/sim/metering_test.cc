#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/log.h"
#include "mechanism/metering/bill.h"
#include "sim/consumers.h"
#include "sim/scenario.h"

namespace virga::sim {
namespace {

constexpr int kHosts = 4;
constexpr int kVms = 8;
constexpr Duration kBegin = seconds(60);

void drop_line(LogLevel, std::string_view, std::string_view) {}

VmId vm_id(int number) { return VmId(fmt::format("acme/vm-{}", number)); }
HostId host_id(std::uint64_t number) { return HostId(fmt::format("host-{}", number)); }

/// A metered cloud that lives for a while, then stops its VMs and lets all be reported.
class MeteredClouds : public testing::Test {
 protected:
  void SetUp() override { set_log_sink(drop_line); }
  void TearDown() override { set_log_sink(nullptr); }

  static CloudOptions options(std::uint64_t seed) {
    CloudOptions options;
    options.seed = seed;
    options.metering = true;
    options.supervisor = seconds(1);
    return options;
  }

  static void found(SimLoop& loop, Cloud& cloud) {
    found_cloud(cloud, kHosts, {{8000}, {16384}}, true, kHosts);
    for (int number = 1; number <= kVms; ++number) {
      loop.after(seconds(2), [&cloud, number] {
        ScenarioVm vm;
        vm.id = vm_id(number);
        put_vm(cloud, vm);
      });
    }
    cloud.start();
    loop.run_for(kBegin);
  }

  static void move(Cloud& cloud, int vm, std::uint64_t host) {
    cloud.edit<Vm>(vm_id(vm), [host](Vm& stored) { stored.spec.move_to = host_id(host); });
  }
  static void end(SimLoop& loop, Cloud& cloud) {
    for (HostTruth& host : cloud.world().hosts()) cloud.heal(host);
    cloud.start_server();
    loop.run_for(seconds(180));
    for (int number = 1; number <= kVms; ++number) {
      cloud.edit<Vm>(vm_id(number), [](Vm& stored) { stored.spec.power = DesiredPower::stopped; });
    }
    loop.run_for(seconds(120) + milliseconds(2 * metering::kWindowMs));
  }

  static std::vector<metering::LedgerEntry> ledger(const Cloud& cloud, int vm) {
    return cloud.usage().entries({"acme", vm_id(vm).value, 0, 1'000'000});
  }
  static std::int64_t charged_ms(const Cloud& cloud, int vm) {
    std::int64_t sum = 0;
    for (const auto& entry : ledger(cloud, vm)) sum += entry.charge.amounts[metering::kRun];
    return sum;
  }
  static std::int64_t true_ms(Cloud& cloud, int vm) {
    return to_ms(cloud.world().run_time(vm_id(vm)));
  }
};

TEST_F(MeteredClouds, R_B8_requests_of_a_service_are_charged_once_under_a_server_that_is_killed) {
  constexpr int kEachSecond = 20;
  SimLoop loop;
  Cloud cloud(loop, options(3));
  found(loop, cloud);
  ScenarioService web;
  web.id = ServiceId("acme/web");
  put_service(cloud, web);
  cloud.edit<Service>(web.id, [&](Service& made) { made.meta.created_at = loop.wall_now(); });
  Consumers consumers(cloud);
  consumers.start();
  loop.run_for(seconds(60));
  cloud.world().set_demand(web.id, kEachSecond);
  for (int round = 0; round < 4; ++round) {
    loop.run_for(seconds(150));
    cloud.kill_server();
    loop.run_for(seconds(2));
    cloud.start_server();
  }
  cloud.world().set_demand(web.id, 0);
  loop.run_for(seconds(60) + milliseconds(metering::kWindowMs));
  std::int64_t charged = 0;
  for (const auto& entry :
       cloud.usage().entries({"acme", web.id.value, 0, 1'000'000, metering::SubjectKind::service}))
    charged += entry.charge.amounts[metering::kRequests];
  const auto& asked = consumers.tallies().at(web.id);
  EXPECT_GT(asked.answered, kEachSecond * 600);
  EXPECT_EQ(charged, asked.answered);
  EXPECT_TRUE(cloud.checker().violations().empty());
}

TEST_F(MeteredClouds, A3_19_moves_under_a_server_that_is_killed_are_charged_at_both_ends_exactly) {
  SimLoop loop;
  Cloud cloud(loop, options(1));
  found(loop, cloud);
  Rng rng(5);
  for (int round = 0; round < 30; ++round) {
    const auto vm = static_cast<int>(rng.between(1, kVms));
    const auto host = static_cast<std::uint64_t>(rng.between(1, kHosts));
    move(cloud, vm, host);
    loop.run_for(milliseconds(rng.between(500, 60'000)));
    if (round % 5 != 4) continue;
    cloud.kill_server();
    loop.run_for(milliseconds(rng.between(100, 5'000)));
    cloud.start_server();
  }
  end(loop, cloud);
  std::set<std::string> places;
  for (int vm = 1; vm <= kVms; ++vm) {
    const auto entries = ledger(cloud, vm);
    for (const auto& entry : entries) places.insert(entry.charged.place);
    // Counters are whole milliseconds.
    EXPECT_NEAR(charged_ms(cloud, vm), true_ms(cloud, vm), static_cast<double>(entries.size()))
        << vm_id(vm).value;
    EXPECT_LE(charged_ms(cloud, vm), true_ms(cloud, vm));
    EXPECT_GT(true_ms(cloud, vm), 300'000);
  }
  EXPECT_EQ(places.size(), kHosts) << "VMs were moved";
  EXPECT_TRUE(cloud.checker().violations().empty());
}

TEST_F(MeteredClouds,
       A3_19_over_failures_no_second_is_charged_twice_and_only_unheard_ones_are_not) {
  // Of a copy that ended with its host or agent; a window more when the server was killed before
  // the copy was heard of again.
  constexpr std::int64_t kUnheardMs = 30'000 + metering::kWindowMs;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    SimLoop loop;
    CloudOptions made = options(seed);
    made.network.loss_per_million = 20'000;
    made.network.duplicate_per_million = 20'000;
    Cloud cloud(loop, made);
    std::map<VmId, std::int64_t> ended;
    cloud.world().observe([&](WorldChange change, const HostTruth&, const Copy* copy) {
      if (change == WorldChange::ended) ++ended[copy->vm];
    });
    found(loop, cloud);
    Rng rng(seed);
    const FaultKind kinds[] = {FaultKind::power, FaultKind::link,       FaultKind::agent,
                               FaultKind::qemu,  FaultKind::agent_stop, FaultKind::clock};
    for (int round = 0; round < 12; ++round) {
      const auto vm = static_cast<int>(rng.between(1, kVms));
      const auto host = static_cast<std::uint64_t>(rng.between(1, kHosts));
      move(cloud, vm, host);
      const Fault fault{kinds[rng.below(std::size(kinds))], host_id(rng.below(kHosts) + 1), {}, {}};
      cloud.apply(fault);
      loop.run_for(milliseconds(rng.between(1'000, 60'000)));
      if (rng.below(4) == 0) cloud.kill_server();
      loop.run_for(milliseconds(rng.between(1'000, 30'000)));
      cloud.start_server();
      for (HostTruth& one : cloud.world().hosts()) cloud.heal(one);
    }
    end(loop, cloud);
    for (int number = 1; number <= kVms; ++number) {
      const std::int64_t truth = true_ms(cloud, number);
      const std::int64_t charged = charged_ms(cloud, number);
      EXPECT_LE(charged, truth) << vm_id(number).value << " seed " << seed;
      EXPECT_GE(charged, truth - kUnheardMs * ended[vm_id(number)])
          << vm_id(number).value << " seed " << seed;
      EXPECT_GT(charged, truth / 3);
    }
  }
}

TEST_F(MeteredClouds, A3_19_bills_equal_the_true_run_time) {
  SimLoop loop;
  Cloud cloud(loop, options(3));
  found(loop, cloud);
  for (int vm = 1; vm <= kVms; ++vm) move(cloud, vm, static_cast<std::uint64_t>(vm % kHosts) + 1);
  loop.run_for(seconds(600));
  end(loop, cloud);
  const auto prices = metering::read_prices(
      R"({"periods": [{"from": "1970-01-01", "prices": {"vcpu_hour": 3600000}}]})");
  ASSERT_TRUE(prices.ok());
  const auto records =
      metering::records_of(cloud.usage().entries({"acme", "", 0, 1'000'000}), *prices);
  std::map<std::string, std::int64_t> micros;
  for (const auto& record : records) micros[record.resource] += record.amount_micros;
  for (int vm = 1; vm <= kVms; ++vm) {
    EXPECT_NEAR(micros["vm/" + vm_id(vm).value], true_ms(cloud, vm), 4.0)
        << "a millionth a millisecond";
  }
}

}  // namespace
}  // namespace virga::sim
