#include "mechanism/metering/meter.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "mechanism/metering/memory_usage_store.h"

namespace virga::metering {
namespace {

constexpr std::int64_t kBegin = 20'000 * kDayMs;

VmUsage usage_of(std::uint64_t epoch, std::int64_t run_ms) {
  VmUsage usage;
  usage.vm = VmId("acme/web");
  usage.epoch = {1, epoch};
  usage.age_ms = milliseconds(run_ms);
  usage.run_ms = milliseconds(run_ms);
  usage.cpu_ms = milliseconds(run_ms / 2);
  usage.cpus = 2;
  usage.memory_mib = {512};
  usage.memory_mib_used = {100};
  return usage;
}

MeterState born(std::int64_t at_ms) {
  MeterState state;
  state.born_ms = at_ms;
  state.at_ms = at_ms;
  return state;
}

std::vector<std::int64_t> points_of(const Window& window, std::size_t series) {
  const auto& points = window.subjects.at(0).points;
  const auto begin = points.begin() + static_cast<std::ptrdiff_t>(series * kWindowPoints);
  return {begin, begin + kWindowPoints};
}

std::int64_t sum(const std::vector<Charge>& charges, std::size_t series) {
  std::int64_t all = 0;
  for (const Charge& charge : charges) all += charge.amounts[series];
  return all;
}

TEST(Meter,
     A3_18_an_agent_that_reports_nothing_is_a_gap_and_its_growth_comes_with_the_next_sample) {
  Meter meter(born(kBegin));
  meter.add_vm(HostId("a"), "acme", usage_of(7, 5'000), kBegin + 5'000);
  meter.add_vm(HostId("a"), "acme", usage_of(7, 15'000), kBegin + 15'000);
  meter.add_vm(HostId("a"), "acme", usage_of(7, 105'000), kBegin + 105'000);
  meter.pass(kBegin + kWindowMs);
  const auto window = meter.take();
  ASSERT_TRUE(window.has_value());
  const auto run = points_of(*window, kRun);
  EXPECT_EQ(run[0], 5'000);
  EXPECT_EQ(run[1], 10'000);
  EXPECT_EQ(run[2], kGap);
  EXPECT_EQ(run[9], kGap);
  EXPECT_EQ(run[10], 90'000);
  EXPECT_EQ(points_of(*window, kDiskReads)[0], kGap) << "what is not measured is no zero";
  EXPECT_EQ(sum(window->charges, kRun), 105'000);
}

TEST(Meter, A3_18_two_missing_points_are_bridged_evenly) {
  Meter meter(born(kBegin));
  meter.add_vm(HostId("a"), "acme", usage_of(7, 1'000), kBegin + 1'000);
  meter.add_vm(HostId("a"), "acme", usage_of(7, 31'001), kBegin + 31'001);
  meter.pass(kBegin + kWindowMs);
  const auto run = points_of(*meter.take(), kRun);
  EXPECT_EQ((std::vector<std::int64_t>(run.begin(), run.begin() + 5)),
            (std::vector<std::int64_t>{1'000, 10'001, 10'000, 10'000, kGap}));
}

TEST(Meter, A3_19_a_repeated_sample_and_one_out_of_order_charge_nothing) {
  Meter meter(born(kBegin));
  meter.add_vm(HostId("a"), "acme", usage_of(7, 9'000), kBegin + 9'000);
  meter.add_vm(HostId("a"), "acme", usage_of(7, 9'000), kBegin + 9'100);
  meter.add_vm(HostId("a"), "acme", usage_of(7, 4'000), kBegin + 9'200);
  meter.add_vm(HostId("a"), "acme", usage_of(7, 9'500), kBegin + 9'500);
  meter.pass(kBegin + kWindowMs);
  EXPECT_EQ(sum(meter.take()->charges, kRun), 9'500);
}

TEST(Meter, A3_19_what_ran_before_there_was_a_meter_is_not_charged) {
  Meter meter(born(kBegin));
  meter.add_vm(HostId("a"), "acme", usage_of(7, 80'000), kBegin + 10'000);
  meter.add_vm(HostId("a"), "acme", usage_of(7, 90'000), kBegin + 20'000);
  meter.pass(kBegin + kWindowMs);
  EXPECT_EQ(sum(meter.take()->charges, kRun), 10'000);
}

TEST(Meter, A3_19_a_move_is_charged_at_both_ends_up_to_its_switch_and_from_it) {
  Meter meter(born(kBegin));
  meter.add_vm(HostId("a"), "acme", usage_of(7, 20'000), kBegin + 20'000);
  VmUsage source = usage_of(7, 24'000);  // handed over 4 s later
  VmUsage destination = usage_of(8, 6'000);
  meter.add_vm(HostId("a"), "acme", source, kBegin + 30'000);
  meter.add_vm(HostId("b"), "acme", destination, kBegin + 30'000);
  source.ended = true;
  meter.add_vm(HostId("a"), "acme", source, kBegin + 40'000);
  meter.pass(kBegin + kWindowMs);
  const Window window = *meter.take();
  ASSERT_EQ(window.charges.size(), 2U);
  EXPECT_EQ(window.charged[0].place, "a");
  EXPECT_EQ(window.charges[0].from_ms, kBegin);
  EXPECT_EQ(window.charges[0].to_ms, kBegin + 24'000);
  EXPECT_EQ(window.charges[1].from_ms, kBegin + 24'000);
  EXPECT_EQ(window.charges[1].to_ms, kBegin + 30'000);
  EXPECT_EQ(sum(window.charges, kRun), 30'000);
  EXPECT_EQ(points_of(window, kRun)[3], 10'000) << "both ends are one VM's time";
}

TEST(Meter, A3_18_volumes_are_charged_for_their_size_also_while_the_server_was_away) {
  Meter::VolumeSample volume{"acme/data", "acme", "disk-1", {1, 3}, 100, 40};
  MemoryUsage disk;
  Meter first(born(kBegin));
  first.add_volume(volume, kBegin);
  first.add_volume(volume, kBegin + 10'000);
  first.pass(kBegin + kWindowMs);
  ASSERT_TRUE(disk.keep(*first.take()).ok());
  MeterState state = born(kBegin);
  state.at_ms = kBegin + kWindowMs;
  state.last_charged = state.last_subject = 1;
  state.subjects = {disk.subjects.at(1)};
  state.charged = {disk.charged.at(1)};
  Meter second(state);
  volume.size_mib = 200;
  second.add_volume(volume, kBegin + 3'600'000);
  second.add_volume(volume, kBegin + 3'610'000);
  second.pass(kBegin + 2 * 3'600'000);
  ASSERT_TRUE(disk.keep(*second.take()).ok());
  const auto entries = disk.entries({"acme", "", kBegin / kDayMs, kBegin / kDayMs + 1});
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_EQ(entries[0].charge.amounts[kHeld], 100 * 3'600'000 + 200 * 10'000);
}

Meter::ServiceSample web_of(std::uint64_t counters, std::int64_t requests) {
  return {"acme/web", "acme", "host-1", kBegin - 1, counters, requests, requests / 50, 2};
}

TEST(Meter, R_B8_services_are_charged_for_requests_whoever_balances_and_whenever_it_counts_anew) {
  MeterState before = born(kBegin - kDayMs);
  before.at_ms = kBegin;
  Meter meter(before);
  meter.add_service(web_of(71, 100), kBegin + 10'000);
  meter.add_service(web_of(71, 100), kBegin + 20'000);
  meter.add_service(web_of(71, 250), kBegin + 30'000);
  meter.add_service(web_of(72, 40), kBegin + 40'000);  // a reload
  auto moved = web_of(71, 7);
  moved.host = "host-2";
  meter.add_service(moved, kBegin + 50'000);
  meter.add_service(web_of(71, 5), kBegin + 60'000);  // a number that was there before
  meter.pass(kBegin + kWindowMs);
  const auto window = meter.take();
  ASSERT_TRUE(window);
  EXPECT_EQ(points_of(*window, kRequests)[1], 100);
  EXPECT_EQ(points_of(*window, kRequests)[2], 0);
  EXPECT_EQ(points_of(*window, kRequests)[3], 150);
  EXPECT_EQ(points_of(*window, kRequestErrors)[3], 3);
  EXPECT_EQ(points_of(*window, kConnections)[1], 2);
  std::map<std::string, std::int64_t> requests;
  for (const Charge& charge : window->charges) {
    for (const Charged& charged : window->charged) {
      if (charged.id == charge.charged) requests[charged.place] += charge.amounts[kRequests];
    }
  }
  EXPECT_EQ(requests["host-1"], 250 + 40 + 5);
  EXPECT_EQ(requests["host-2"], 7);
}

TEST(Meter, R_B8_what_a_balancer_has_counted_before_there_was_a_meter_is_not_charged) {
  Meter meter(born(kBegin));
  meter.add_service(web_of(71, 1'000), kBegin + 10'000);
  meter.add_service(web_of(71, 1'020), kBegin + 20'000);
  meter.pass(kBegin + kWindowMs);
  EXPECT_EQ(meter.take()->charges.at(0).amounts[kRequests], 20);
  Meter again(born(kBegin));
  auto younger = web_of(71, 1'000);
  younger.created_ms = kBegin + 1;
  again.add_service(younger, kBegin + 20'000);
  again.pass(kBegin + kWindowMs);
  EXPECT_EQ(again.take()->charges.at(0).amounts[kRequests], 1'000) << "it is younger than that";
}

/// One VM that is moved, fails and starts again, on hosts whose reports are lost, under servers
/// that are killed.
class Story {
 public:
  Story() : meter_(born(kBegin)) {}

  void run(std::int64_t ms) {
    now_ += ms;
    if (copies_.empty() || copies_.back().ended) return;
    copies_.back().run_ms += ms;
    total_ += ms;
  }
  void place(const std::string& host) {
    if (!copies_.empty()) copies_.back().ended = true;
    copies_.push_back({host, ++epoch_, 0, now_, false});
  }
  void fail() {
    if (!copies_.empty()) copies_.back().ended = true;
  }
  void report() {
    for (const Copy& copy : copies_) {
      VmUsage usage = usage_of(copy.epoch, copy.run_ms);
      usage.age_ms = milliseconds(now_ - copy.began);
      usage.ended = copy.ended;
      meter_.add_vm(HostId(copy.host), "acme", usage, now_);
    }
    keep();
  }
  void keep() {
    meter_.pass(now_);
    while (auto window = meter_.take()) ASSERT_TRUE(disk_.keep(*window).ok());
  }
  void lose_window() {
    meter_.pass(now_);
    if (meter_.take()) restart();  // could not be kept: a new meter goes on from what was
  }
  void restart() {
    MeterState state = born(kBegin);
    if (disk_.window >= 0) state.at_ms = (disk_.window + 1) * kWindowMs;
    for (const auto& [id, subject] : disk_.subjects) state.subjects.push_back(subject);
    for (const auto& [id, charged] : disk_.charged) state.charged.push_back(charged);
    state.last_subject = static_cast<std::int64_t>(disk_.subjects.size());
    state.last_charged = disk_.charged.empty() ? 0 : disk_.charged.rbegin()->first;
    meter_ = Meter(state);
  }
  void end() {
    report();
    now_ += kWindowMs;
    keep();
  }
  std::vector<LedgerEntry> ledger() const {
    return disk_.entries({"acme", "acme/web", kBegin / kDayMs, kBegin / kDayMs + 30});
  }

  struct Copy {
    std::string host;
    std::uint64_t epoch = 0;
    std::int64_t run_ms = 0;
    std::int64_t began = 0;
    bool ended = false;
  };
  std::vector<Copy> copies_;
  std::int64_t total_ = 0;

 private:
  Meter meter_;
  MemoryUsage disk_;
  std::int64_t now_ = kBegin;
  std::uint64_t epoch_ = 0;
};

RC_GTEST_PROP(Meter,
              A3_19_every_millisecond_of_every_copy_is_charged_once_over_moves_kills_and_losses,
              ()) {
  Story story;
  const int steps = *rc::gen::inRange(1, 200);
  for (int step = 0; step < steps; ++step) {
    story.run(*rc::gen::inRange<std::int64_t>(0, 90'000));
    switch (*rc::gen::weightedElement<int>({{4, 0}, {2, 1}, {1, 2}, {1, 3}, {1, 4}})) {
      case 0:
        story.report();
        break;
      case 1:
        story.place(*rc::gen::elementOf(std::vector<std::string>{"a", "b", "c"}));
        break;
      case 2:
        story.restart();
        break;
      case 3:
        story.fail();
        break;
      case 4:
        story.lose_window();
        break;
    }
  }
  story.end();
  std::int64_t charged = 0;
  std::map<std::uint64_t, std::int64_t> by_epoch;
  for (const LedgerEntry& entry : story.ledger()) {
    charged += entry.charge.amounts[kRun];
    by_epoch[entry.charged.epoch.counter] += entry.charge.amounts[kRun];
    RC_ASSERT(entry.charged.place == story.copies_[entry.charged.epoch.counter - 1].host);
  }
  RC_ASSERT(charged == story.total_);
  for (const Story::Copy& copy : story.copies_) RC_ASSERT(by_epoch[copy.epoch] == copy.run_ms);
}

}  // namespace
}  // namespace virga::metering
