#include "mechanism/metering/sqlite_usage_store.h"

#include <gtest/gtest.h>

#include "../tests/tools/temp_folder.h"
#include "../tests/tools/test_loop.h"
#include "base/rng.h"
#include "mechanism/metering/memory_usage_store.h"

namespace virga::metering {
namespace {

constexpr std::int64_t kBegin = 20'000 * kDayMs;

/// Ten minutes before midnight until ten minutes after it, some VMs on two hosts.
class UsageFiles : public ::testing::Test {
 protected:
  void meter(Meter& meter, std::int64_t from_ms, std::int64_t to_ms, UsageFile& file,
             MemoryUsage& beside) {
    for (std::int64_t at = from_ms; at < to_ms; at += kPointMs) {
      for (int vm = 0; vm < 5; ++vm) meter.add_vm(HostId("a"), "acme", grow(vm), at);
      while (auto window = meter.take()) {
        ASSERT_TRUE(file.keep(*window).ok());
        ASSERT_TRUE(beside.keep(*window).ok());
      }
    }
  }
  const VmUsage& grow(int vm) {
    VmUsage& usage = vms_[vm];
    usage.vm = VmId("acme/vm-" + std::to_string(vm));
    usage.epoch = {1, static_cast<std::uint64_t>(vm) + 1};
    usage.cpus = 2;
    usage.memory_mib = {256};
    usage.run_ms += milliseconds(10'000);
    const auto more = static_cast<std::int64_t>(rng_.below(10'000));
    usage.cpu_ms += milliseconds(more);
    usage.disk_read_bytes = std::max<std::int64_t>(usage.disk_read_bytes, 0) + more * 512;
    return usage;
  }

  test::TempFolder folder_;
  std::map<int, VmUsage> vms_;
  Rng rng_{7};
};

TEST_F(UsageFiles, R_B8_rollups_and_the_ledger_equal_the_points_exactly) {
  auto file = UsageFile::open(folder_.file("usage.db"), {});
  ASSERT_TRUE(file.ok()) << file.error().text();
  MemoryUsage beside;
  const std::int64_t begin = kBegin + kDayMs - 600'000;
  Meter metered(*file->load(begin));
  meter(metered, begin, begin + 1'200'001, *file, beside);
  for (int vm = 0; vm < 5; ++vm) {
    const std::string name = "acme/vm-" + std::to_string(vm);
    PointsQuery query{SubjectKind::vm, name, begin, begin + 1'200'000, kPointMs};
    const auto points = file->points(query);
    query.step_ms = kWindowMs;
    const auto rollups = file->points(query);
    ASSERT_TRUE(points.ok() && rollups.ok());
    EXPECT_EQ(points->size(), 120U);
    EXPECT_EQ(rollups->size(), 4U);
    Amounts fine{};
    Amounts coarse{};
    Amounts charged{};
    for (const UsageStep& step : *points) {
      for (std::size_t one = 0; one < kVmSeries; ++one) fine[one] += step.series[one].sum;
    }
    for (const UsageStep& step : *rollups) {
      for (std::size_t one = 0; one < kVmSeries; ++one) coarse[one] += step.series[one].sum;
    }
    const auto ledger = file->ledger({"acme", name, kBegin / kDayMs, kBegin / kDayMs + 2});
    ASSERT_TRUE(ledger.ok());
    EXPECT_EQ(ledger->size(), 2U) << "one row a day";
    for (const LedgerEntry& entry : *ledger) {
      for (std::size_t one = 0; one < kVmSeries; ++one) charged[one] += entry.charge.amounts[one];
    }
    EXPECT_EQ(fine, coarse);
    fine[kMemoryUsed] = 0;  // a level; not charged
    EXPECT_EQ(fine, charged);
  }
}

TEST_F(UsageFiles, R_B8_the_file_says_what_the_memory_says) {
  auto file = UsageFile::open(folder_.file("usage.db"), {});
  ASSERT_TRUE(file.ok());
  MemoryUsage beside;
  Meter metered(*file->load(kBegin));
  meter(metered, kBegin, kBegin + 900'001, *file, beside);
  const LedgerQuery query{"", "", kBegin / kDayMs, kBegin / kDayMs + 1};
  const auto kept = file->ledger(query);
  const auto expected = beside.entries(query);
  ASSERT_TRUE(kept.ok());
  ASSERT_EQ(kept->size(), expected.size());
  for (std::size_t at = 0; at < expected.size(); ++at) {
    EXPECT_EQ((*kept)[at].charge.amounts, expected[at].charge.amounts);
    EXPECT_EQ((*kept)[at].charge.from_ms, expected[at].charge.from_ms);
    EXPECT_EQ((*kept)[at].charge.to_ms, expected[at].charge.to_ms);
    EXPECT_EQ((*kept)[at].charged.counted, expected[at].charged.counted);
    EXPECT_EQ((*kept)[at].subject.name, expected[at].subject.name);
  }
}

TEST_F(UsageFiles, A3_19_a_killed_writer_loses_points_of_one_window_and_no_charge) {
  const std::string path = folder_.file("usage.db");
  MemoryUsage beside;
  {
    auto file = UsageFile::open(path, {});
    ASSERT_TRUE(file.ok());
    Meter killed(*file->load(kBegin));
    meter(killed, kBegin, kBegin + 450'000, *file, beside);  // 150 s of it were never kept
  }
  auto file = UsageFile::open(path, {});
  ASSERT_TRUE(file.ok());
  Meter next(*file->load(kBegin + 450'000));
  meter(next, kBegin + 450'000, kBegin + 900'001, *file, beside);
  const auto ledger = file->ledger({"acme", "acme/vm-0", kBegin / kDayMs, kBegin / kDayMs + 1});
  ASSERT_EQ(ledger->size(), 1U);
  EXPECT_EQ(ledger->front().charge.amounts[kRun], 900'000);
  const auto points =
      file->points({SubjectKind::vm, "acme/vm-0", kBegin, kBegin + 900'000, kPointMs});
  ASSERT_EQ(points->size(), 75U) << "the rest is a gap";
  std::int64_t sum = 0;
  for (const UsageStep& step : *points) sum += step.series[kRun].sum;
  EXPECT_EQ(sum, 900'000) << "what ran in it came with the first point after it";
}

TEST_F(UsageFiles, A3_19_a_window_is_kept_once) {
  auto file = UsageFile::open(folder_.file("usage.db"), {});
  Meter metered(*file->load(kBegin));
  metered.add_vm(HostId("a"), "acme", grow(0), kBegin);
  metered.pass(kBegin + kWindowMs);
  const Window window = *metered.take();
  ASSERT_TRUE(file->keep(window).ok());
  EXPECT_EQ(file->keep(window).error().code, Errc::conflict);
  const auto ledger = file->ledger({"", "", kBegin / kDayMs, kBegin / kDayMs + 1});
  EXPECT_EQ(ledger->front().charge.amounts[kRun], 10'000);
}

TEST_F(UsageFiles, A3_18_what_is_too_old_is_dropped) {
  Retention retention;
  retention.points_ms = 600'000;
  retention.rollups_ms = 1'200'000;
  auto file = UsageFile::open(folder_.file("usage.db"), retention);
  MemoryUsage beside;
  Meter metered(*file->load(kBegin));
  meter(metered, kBegin, kBegin + 3'600'001, *file, beside);
  PointsQuery query{SubjectKind::vm, "acme/vm-0", kBegin, kBegin + 3'600'000, kPointMs};
  EXPECT_EQ(file->points(query)->size(), 60U);
  query.step_ms = kWindowMs;
  EXPECT_EQ(file->points(query)->size(), 4U);
}

TEST_F(UsageFiles, A3_18_the_store_answers_on_its_loop) {
  test::TestLoop loop;
  auto store = SqliteUsageStore::open(loop, folder_.file("usage.db"));
  ASSERT_TRUE(store.ok()) << store.error().text();
  EXPECT_EQ(SqliteUsageStore::open(loop, folder_.file("usage.db")).error().code, Errc::conflict);
  std::optional<Meter> metered;
  (*store)->load(kBegin, [&](Result<MeterState> state) { metered.emplace(*state); });
  ASSERT_TRUE(loop.run_until([&] { return metered.has_value(); }));
  metered->add_vm(HostId("a"), "acme", grow(0), kBegin);
  metered->pass(kBegin + kWindowMs);
  std::optional<std::size_t> entries;
  (*store)->keep(*metered->take(), [&](Result<void> kept) {
    ASSERT_TRUE(kept.ok());
    (*store)->ledger({"acme", "", 0, 100'000},
                     [&](Result<std::vector<LedgerEntry>> ledger) { entries = ledger->size(); });
  });
  ASSERT_TRUE(loop.run_until([&] { return entries.has_value(); }));
  EXPECT_EQ(*entries, 1U);
}

}  // namespace
}  // namespace virga::metering
