#include "driver/net/cable.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <filesystem>
#include <thread>

#include "edge/network_namespace.h"

namespace virga::test {
namespace {

class NamespaceFolderTest : public testing::Test {
 protected:
  NamespaceFolderTest() {
    std::string made = testing::TempDir() + "virga-names-XXXXXX";
    above_ = ::mkdtemp(made.data());
    folder_ = above_ + "/netns";
  }
  ~NamespaceFolderTest() override {
    ::umount2(folder_.c_str(), MNT_DETACH);
    std::filesystem::remove_all(above_);
  }
  NamespaceFolderTest(const NamespaceFolderTest&) = delete;
  NamespaceFolderTest& operator=(const NamespaceFolderTest&) = delete;

  static ino_t number(const Descriptor& opened) {
    struct stat found {};
    return ::fstat(opened.get(), &found) == 0 ? found.st_ino : 0;
  }

  std::string above_, folder_;
};

TEST_F(NamespaceFolderTest, F_B10_AFolderThatOthersDropIsNotTakenFromUnderANewName) {
  constexpr int kRounds = 200;
  std::thread other([this] {
    for (int round = 0; round < kRounds; ++round) {
      const std::string name = folder_ + "/other";
      const auto made = ensure_network_namespace(name);
      EXPECT_TRUE(made.ok()) << made.error().text();
      EXPECT_TRUE(remove_network_namespace(name).ok());
      drop_unused_namespace_folder(folder_);
    }
  });
  for (int round = 0; round < kRounds; ++round) {
    const std::string name = folder_ + "/own";
    const auto made = ensure_network_namespace(name);
    EXPECT_TRUE(made.ok()) << made.error().text();
    const auto again = ensure_network_namespace(name);
    EXPECT_TRUE(made.ok() && again.ok() && number(*made) == number(*again)) << "round " << round;
    EXPECT_TRUE(remove_network_namespace(name).ok());
    drop_unused_namespace_folder(folder_);
  }
  other.join();
  EXPECT_FALSE(std::filesystem::exists(folder_));
}

TEST_F(NamespaceFolderTest, F_B10_AFolderWithANameStays) {
  const auto made = ensure_network_namespace(folder_ + "/web");
  ASSERT_TRUE(made.ok()) << made.error().text();
  drop_unused_namespace_folder(folder_);
  EXPECT_TRUE(std::filesystem::exists(folder_ + "/web"));
  EXPECT_TRUE(remove_network_namespace(folder_ + "/web").ok());
}

}  // namespace
}  // namespace virga::test
