#include "server/core/host_calendar.h"

#include <gtest/gtest.h>

#include "mechanism/calendar/windows.h"
#include "model/event.h"
#include "sim/sim_loop.h"
#include "store/memory_store.h"

namespace virga {
namespace {

/// One host, and a server that may be replaced.
class HostCalendarTest : public ::testing::Test {
 protected:
  HostCalendarTest() { begin(); }

  void begin() {
    calendar_.reset();
    mirror_ = std::make_unique<StoreMirror>(loop_, store_);
    mirror_->open([](const Result<void>& opened) { EXPECT_TRUE(opened.ok()); });
    loop_.run_for(milliseconds(100));
    calendar_ = std::make_unique<HostCalendar>(loop_, store_, *mirror_, names_);
    calendar_->start();
  }

  /// Time passes, with a server that ticks.
  void pass(Duration time) {
    for (const Instant end = loop_.now() + time; loop_.now() < end;) {
      calendar_->tick();
      loop_.run_for(seconds(1));
    }
  }

  const Host& host() const { return *mirror_->view().hosts.find(HostId("host-1")); }

  void edit(const std::function<void(Host&)>& change) {
    const Host* stored = mirror_->view().hosts.find(HostId("host-1"));
    Host changed = stored == nullptr ? Host() : *stored;
    changed.meta.name = "host-1";
    change(changed);
    Transaction transaction;
    transaction.put(changed);
    store_.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
    loop_.run_for(milliseconds(100));
  }

  /// A window that opens in the next minute, for two.
  void give_window() {
    constexpr std::int64_t kMinuteMs = 60'000;
    const std::int64_t minute = loop_.wall_now().unix_ms / kMinuteMs + 1;
    const auto of_day = static_cast<int>(minute % (24 * 60));
    MaintenanceWindow window;
    window.from = std::string{
        static_cast<char>('0' + of_day / 600), static_cast<char>('0' + of_day / 60 % 10), ':',
        static_cast<char>('0' + of_day % 60 / 10), static_cast<char>('0' + of_day % 10)};
    ASSERT_TRUE(parse_time_of_day(window.from)) << window.from;
    window.for_ms = seconds(120);
    edit([&](Host& changed) { changed.spec.windows = {window}; });
  }

  SimLoop loop_;
  MemoryStore store_{loop_, Rng(1), {}};
  NameSource names_;
  std::unique_ptr<StoreMirror> mirror_;
  std::unique_ptr<HostCalendar> calendar_;
};

TEST_F(HostCalendarTest, A3_06_R_B5_AWindowBeginsAndEndsAMaintenance) {
  give_window();
  EXPECT_FALSE(host().spec.maintenance);
  pass(seconds(66));
  EXPECT_TRUE(host().spec.maintenance);
  EXPECT_TRUE(host().status.window_maintenance);
  pass(seconds(126));
  EXPECT_FALSE(host().spec.maintenance);
  EXPECT_FALSE(host().status.window_open);
}

TEST_F(HostCalendarTest, R_B5_TheNextServerEndsWhatThisOneHasBegun) {
  give_window();
  pass(seconds(66));
  begin();
  EXPECT_TRUE(host().spec.maintenance);
  pass(seconds(126));
  EXPECT_FALSE(host().spec.maintenance);
}

TEST_F(HostCalendarTest, R_B5_AWindowThatIsTakenAwayEnds) {
  give_window();
  pass(seconds(66));
  edit([](Host& changed) { changed.spec.windows.clear(); });
  pass(seconds(6));
  EXPECT_FALSE(host().spec.maintenance);
}

TEST_F(HostCalendarTest, R_B5_AnOperatorsWordCounts) {
  edit([](Host& changed) { changed.spec.maintenance = true; });
  give_window();
  pass(seconds(66));
  EXPECT_TRUE(host().status.window_open);
  pass(seconds(126));
  EXPECT_TRUE(host().spec.maintenance) << "it was so before";

  edit([](Host& changed) { changed.spec.maintenance = false; });
  give_window();
  pass(seconds(66));
  ASSERT_TRUE(host().spec.maintenance);
  edit([](Host& changed) {
    changed.spec.maintenance = false;
    changed.status.window_maintenance = false;
  });
  pass(seconds(20));
  EXPECT_FALSE(host().spec.maintenance) << "activated in the middle";
}

}  // namespace
}  // namespace virga
