#include "agent/usage_reporter.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "agent/agent_fixture.h"
#include "base/reflect.h"
#include "sim/sim_loop.h"

namespace virga {
namespace {

class Counting : public test::FakeHypervisor {
 public:
  std::vector<VmUsage> usage() const override { return copies; }
  void forget_usage(const VmId& vm, const Epoch& epoch) override {
    std::erase_if(copies,
                  [&](const VmUsage& copy) { return copy.vm == vm && copy.epoch == epoch; });
  }

  void add(int number, bool ended) {
    VmUsage usage;
    usage.vm = VmId("acme/database-of-customers-" + std::to_string(number));
    usage.epoch = Epoch{1, std::uint64_t(number)};
    usage.ended = ended;
    usage.run_ms = usage.age_ms = std::chrono::hours(24 * 365);
    usage.disk_read_bytes = usage.disk_written_bytes = std::int64_t{1} << 50;
    usage.net_received_bytes = usage.net_sent_bytes = std::int64_t{1} << 50;
    copies.push_back(usage);
  }

  std::vector<VmUsage> copies;
};

struct Reporting {
  Reporting() { reporter.start(); }

  /// A server that keeps what it heard up to now.
  void keep() { reporter.kept({sent.back().sequence}); }

  SimLoop loop;
  Counting hypervisor;
  std::vector<UsageReport> sent;
  std::vector<Instant> when;
  UsageReporter reporter{loop, hypervisor, [this](UsageReport report) {
                           sent.push_back(std::move(report));
                           when.push_back(loop.now());
                         }};
};

TEST(UsageReporter, F_B6_usage_of_many_copies_never_comes_in_a_burst) {
  Reporting host;
  for (int number = 0; number < 1000; ++number) host.hypervisor.add(number, number % 2 == 0);
  host.loop.run_for(UsageReporter::kEvery + seconds(5));
  std::set<VmId> told;
  for (std::size_t index = 0; index < host.sent.size(); ++index) {
    EXPECT_LE(to_json_text(host.sent[index]).size(), 32U << 10U);
    const Instant before = index == 0 ? Instant() : host.when[index - 1];
    EXPECT_GE(host.when[index] - before, UsageReporter::kPause);
    for (const VmUsage& copy : host.sent[index].vms) EXPECT_TRUE(told.insert(copy.vm).second);
  }
  EXPECT_EQ(told.size(), 1000U);
  EXPECT_EQ(host.sent.size(), 16U);
}

TEST(UsageReporter, R_B8_an_ended_copy_is_forgotten_when_the_message_that_told_of_it_is_kept) {
  Reporting host;
  for (int number = 0; number < 100; ++number) host.hypervisor.add(number, true);
  host.loop.run_for(UsageReporter::kEvery);
  ASSERT_EQ(host.sent.size(), 1U);
  host.keep();
  EXPECT_EQ(host.hypervisor.copies.size(), 36U) << "the rest has not been told";
  host.loop.run_for(UsageReporter::kPause);
  ASSERT_EQ(host.sent.size(), 2U);
  host.reporter.kept({host.sent.front().sequence});
  EXPECT_EQ(host.hypervisor.copies.size(), 36U);
  host.keep();
  EXPECT_TRUE(host.hypervisor.copies.empty());
}

TEST(UsageReporter, R_B8_what_a_lost_session_was_told_is_told_and_kept_anew) {
  Reporting host;
  host.hypervisor.add(1, true);
  host.loop.run_for(UsageReporter::kEvery);
  ASSERT_EQ(host.sent.size(), 1U);
  host.reporter.session_begins();
  host.keep();
  EXPECT_EQ(host.hypervisor.copies.size(), 1U) << "nobody knows whether it arrived";
  host.loop.run_for(UsageReporter::kEvery);
  ASSERT_EQ(host.sent.size(), 2U);
  EXPECT_EQ(host.sent[1].vms.size(), 1U);
  host.keep();
  EXPECT_TRUE(host.hypervisor.copies.empty());
}

TEST(UsageReporter, R_B8_what_the_server_missed_is_told_again_though_it_kept_what_came_after) {
  Reporting host;
  for (int number = 0; number < 100; ++number) host.hypervisor.add(number, true);
  host.loop.run_for(UsageReporter::kEvery + UsageReporter::kPause);
  ASSERT_EQ(host.sent.size(), 2U);
  const std::uint64_t second = host.sent[1].sequence;
  host.reporter.kept({second, second});
  EXPECT_EQ(host.hypervisor.copies.size(), 64U) << "those of the first message";
  host.reporter.kept({second, host.sent[0].sequence});
  EXPECT_EQ(host.hypervisor.copies.size(), 64U) << "they have to be told anew";
  host.loop.run_for(UsageReporter::kEvery);
  ASSERT_EQ(host.sent.size(), 3U);
  host.keep();
  EXPECT_TRUE(host.hypervisor.copies.empty());
}

TEST(UsageReporter, R_B8_what_was_kept_of_an_earlier_run_is_none_of_this_ones) {
  Reporting host;
  host.loop.run_for(seconds(65));
  std::uint64_t first = 0;
  UsageReporter next(host.loop, host.hypervisor,
                     [&](const UsageReport& report) { first = report.sequence; });
  next.start();
  const std::uint64_t last = host.sent.back().sequence;
  host.loop.run_for(UsageReporter::kEvery);
  EXPECT_GT(first, last);
}

TEST(UsageReporter, A3_18_a_host_without_guests_says_so_every_ten_seconds) {
  Reporting host;
  host.loop.run_for(seconds(65));
  EXPECT_EQ(host.sent.size(), 6U);
}

}  // namespace
}  // namespace virga
