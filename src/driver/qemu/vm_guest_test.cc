#include "driver/qemu/vm_guest.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "edge/file.h"

namespace virga {
namespace {

/// The agent's end of a guest's channels; this test is QEMU with what runs in the guest.
class VmGuestTest : public ::testing::Test {
 protected:
  VmGuestTest() {
    char path[] = "/tmp/virga-guest-XXXXXX";
    folder_ = ::mkdtemp(path);
    const auto made = vm_folder(folder_, VmId("acme/web"));
    EXPECT_TRUE(made.ok());
    where_ = *made;
    EXPECT_TRUE(make_folders(std::filesystem::path(where_.guest_agent()).parent_path()).ok());
    listener_ = Descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, where_.guest_agent().c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
  }
  ~VmGuestTest() override { std::filesystem::remove_all(folder_); }

  /// What the agent has written since the last look.
  std::string heard() {
    if (!channel_.valid()) channel_ = Descriptor(::accept(listener_.get(), nullptr, nullptr));
    char text[4096];
    const ssize_t count = ::recv(channel_.get(), text, sizeof text, MSG_DONTWAIT);
    return count > 0 ? std::string(text, static_cast<std::size_t>(count)) : "";
  }
  /// The guest's agent answers; true when that counts as a sign of life.
  bool answer(VmGuest& guest, const std::string& text) {
    const auto before = guest.last_sign();
    EXPECT_EQ(::send(channel_.get(), text.data(), text.size(), 0),
              static_cast<ssize_t>(text.size()));
    loop_.after(milliseconds(20), [this] { loop_.stop(); });
    loop_.run();
    return guest.last_sign() != before;
  }

  std::string folder_;
  VmFolder where_;
  Descriptor listener_;
  Descriptor channel_;
  AsioLoop loop_;
};

TEST_F(VmGuestTest, F_B5_AGuestWithAnAgentIsPingedAndOnlyAnAnswerInTimeIsASignOfLife) {
  VmGuest guest(loop_, where_);
  for (int tick = 0; tick < 4; ++tick) guest.tick(true);
  EXPECT_EQ(heard(), "") << "nobody in the guest has opened the port";
  guest.set_agent_open(true);
  guest.tick(true);
  guest.tick(true);
  EXPECT_EQ(
      heard(),
      "{\"execute\":\"guest-sync\",\"arguments\":{\"id\":1}}\n{\"execute\":\"guest-ping\"}\n");
  EXPECT_FALSE(guest.last_sign().has_value());
  EXPECT_TRUE(answer(guest, "{\"return\": 1}\n{\"return\": {}}\n"));
  guest.tick(true);
  guest.tick(true);
  EXPECT_NE(heard().find("\"id\":2"), std::string::npos);
  EXPECT_FALSE(answer(guest, "{\"return\": 1}\n{\"return\": {}}\n")) << "of the question before";
  EXPECT_FALSE(answer(guest, "{\"error\": {\"class\": \"CommandNotFound\"}}\nno json\n"));
  EXPECT_TRUE(answer(guest, "{\"return\": 2}\n{\"return\": {}}\n"));
}

TEST_F(VmGuestTest, F_B5_APausedGuestIsNotAsked) {
  VmGuest guest(loop_, where_);
  guest.set_agent_open(true);
  guest.tick(true);
  EXPECT_EQ(heard(), "");
  for (int tick = 0; tick < 10; ++tick) guest.tick(false);
  EXPECT_EQ(heard(), "");
}

}  // namespace
}  // namespace virga
