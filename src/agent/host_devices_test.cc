#include "agent/host_devices.h"

#include <gtest/gtest.h>

/// What of its devices a host offers to guests.
namespace virga {
namespace {

std::string refused(const std::vector<std::string>& words) {
  const auto offered = offer_devices(words);
  return offered ? "" : offered.error().text();
}

TEST(HostDevices, A3_23_R_B5_what_is_offered_is_named_and_told_apart) {
  const auto offered = offer_devices({"zero=/dev/zero", "nothing=/dev/null"});
  ASSERT_TRUE(offered.ok()) << offered.error().text();
  ASSERT_EQ(offered->size(), 2U);
  EXPECT_EQ(offered->front().device, (HostDevice{"nothing", HostDeviceKind::character, Bytes{}}));
  EXPECT_EQ(offered->back().path, "/dev/zero");
}

TEST(HostDevices, A3_23_R_B5_one_that_is_not_there_is_left_out) {
  const auto offered = offer_devices({"gone=/dev/virga-no-such-device", "zero=/dev/zero"});
  ASSERT_TRUE(offered.ok());
  ASSERT_EQ(offered->size(), 1U);
  EXPECT_EQ(offered->front().device.name, "zero");
}

TEST(HostDevices, A3_23_R_B5_words_that_mean_nothing_are_refused_with_what_is_right) {
  EXPECT_NE(refused({"/dev/zero"}).find("NAME=/dev/... is right"), std::string::npos);
  EXPECT_NE(refused({"zero=dev/zero"}).find("NAME=/dev/... is right"), std::string::npos);
  EXPECT_NE(refused({"Zero!=/dev/zero"}).find("--host-device NAME: \"Zero!\" is not a name"),
            std::string::npos);
  EXPECT_NE(refused({"file=/etc/passwd"}).find("neither a block nor a character device"),
            std::string::npos);
  EXPECT_NE(refused({"one=/dev/zero", "one=/dev/null"}).find("another device has that name"),
            std::string::npos);
}

}  // namespace
}  // namespace virga
