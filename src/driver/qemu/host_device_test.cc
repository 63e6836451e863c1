#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <optional>

#include "driver/qemu/test_lab.h"
#include "edge/process.h"

/// A guest that holds a device of its host. Block devices: tests/integration/host_device_test.py.
namespace virga {
namespace {

class HostDeviceTest : public testing::Test {
 protected:
  HostDeviceTest() : line_(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
    EXPECT_EQ(::grantpt(line_.get()) + ::unlockpt(line_.get()), 0);
    path_ = ::ptsname(line_.get());
    lab_.host_devices = {{"line", path_}, {"file", "/etc/passwd"}};
    lab_.restart_agent(0);
  }
  Result<void> start(const std::string& name, std::vector<std::string> devices) {
    VmLaunch launch = lab_.launch(name, 1);
    launch.host_devices = std::move(devices);
    return lab_.wait<void>([&](Callback<void> done) { lab_.host(0).start(launch, done); });
  }
  /// How often the process has the device open.
  int holds(const std::string& name) const {
    const auto folder = "/proc/" + std::to_string(lab_.pid(0, VmId("acme/" + name))) + "/fd";
    int found = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      std::error_code closed;
      found += std::filesystem::read_symlink(entry.path(), closed) == path_ ? 1 : 0;
    }
    return found;
  }

  Descriptor line_;  ///< the other end
  std::string path_;
  QemuLab lab_;
};

TEST_F(HostDeviceTest, A3_23_R_B5_a_guest_holds_a_device_alone_and_until_it_ends) {
  ASSERT_TRUE(start("web", {"line"}).ok());
  EXPECT_GE(holds("web"), 1);
  const auto second = start("db", {"line"});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Errc::conflict);
  EXPECT_NE(second.error().text().find("host device line is held by acme/web"), std::string::npos);
  lab_.restart_agent(0);
  EXPECT_EQ(start("db", {"line"}).error().code, Errc::conflict) << "the next agent knows it too";
  lab_.kill_vm(0, VmId("acme/web"));
  ASSERT_TRUE(lab_.run_until([&] { return lab_.host(0).observe().empty(); }, seconds(20)));
  EXPECT_TRUE(start("db", {"line"}).ok());
}

TEST_F(HostDeviceTest, A3_23_R_B5_what_is_not_offered_is_not_opened) {
  const auto unknown = start("web", {"disk"});
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, Errc::not_found);
  EXPECT_NE(unknown.error().text().find("--host-device disk="), std::string::npos)
      << unknown.error().text();
  const auto file = start("db", {"file"});
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.error().code, Errc::invalid) << "it has become something else since";
  EXPECT_EQ(file.error().text().find("/etc"), std::string::npos)
      << "where it is, tenants need not know";
}

}  // namespace
}  // namespace virga
