#include "driver/qemu/vm_meter.h"

#include <gtest/gtest.h>

#include "../tests/tools/temp_folder.h"

namespace virga {
namespace {

constexpr Epoch kEpoch{1, 7};
Instant at(std::int64_t ms) { return Instant(milliseconds(ms)); }

TEST(VmMeter, A3_18_counts_while_the_guest_runs_and_the_next_agent_goes_on) {
  test::TempFolder folder;
  VmMeter meter(folder.file("meter.json"));
  meter.begin(kEpoch, {}, at(1'000));
  meter.set_running(true, at(2'000));
  meter.set_running(true, at(3'000));
  meter.set_running(false, at(5'000));
  EXPECT_EQ(meter.run_time(at(9'000)), milliseconds(3'000));
  meter.set_running(true, at(9'000));
  VmMeter next(folder.file("meter.json"));
  next.adopt(kEpoch, at(20'000));
  EXPECT_EQ(next.run_time(at(20'000)), milliseconds(14'000)) << "it ran on without an agent";
  EXPECT_EQ(next.age(at(20'000)), milliseconds(19'000));
}

TEST(VmMeter, A3_19_what_another_copy_left_is_not_counted) {
  test::TempFolder folder;
  VmMeter meter(folder.file("meter.json"));
  meter.begin(kEpoch, {}, at(0));
  meter.set_running(true, at(0));
  VmMeter next(folder.file("meter.json"));
  next.adopt({1, 8}, at(5'000));
  EXPECT_EQ(next.run_time(at(6'000)), Duration::zero());
  EXPECT_EQ(next.age(at(6'000)), milliseconds(1'000));
}

TEST(VmMeter, A3_18_a_tap_receives_what_its_guest_sends) {
  const std::string text =
      "Inter-|   Receive                            |  Transmit\n"
      " face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop\n"
      "    lo:     100       1 0 0 0 0 0 0      100 1 0 0 0 0 0 0\n"
      " xv-t1:     999       1 0 0 0 0 0 0      999 1 0 0 0 0 0 0\n"
      "  v-t1:    1500      10 0 0 0 0 0 0    70000 7 0 0 0 0 0 0\n";
  VmUsage usage;
  EXPECT_FALSE(add_link(text, "v-t2", usage));
  EXPECT_LT(usage.net_sent_bytes, 0) << "not measured is not nothing";
  EXPECT_TRUE(add_link(text, "v-t1", usage));
  EXPECT_EQ(usage.net_sent_bytes, 1'500);
  EXPECT_EQ(usage.net_received_bytes, 70'000);
}

}  // namespace
}  // namespace virga
