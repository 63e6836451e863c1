#include "agent/directory_look.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "../tests/tools/temp_folder.h"
#include "edge/file.h"

namespace virga {
namespace {

TEST(DirectoryLook, A1_10_writes_one_file_per_host_and_reads_it_again) {
  const test::TempFolder folder;
  for (std::uint64_t number = 1; number <= 3; ++number) {
    EXPECT_TRUE(look_at_directory(folder.path(), "host-1", number).ok());
  }
  EXPECT_TRUE(look_at_directory(folder.path(), "host-2", 9).ok());
  EXPECT_EQ(*read_file(folder.path() + "/hosts/host-1"), "3\n");
  EXPECT_EQ(*read_file(folder.path() + "/hosts/host-2"), "9\n");
  int files = 0;
  for (const auto& each : std::filesystem::directory_iterator(folder.path() + "/hosts")) {
    files += each.is_regular_file() ? 1 : 0;
  }
  EXPECT_EQ(files, 2) << "nothing is left beside them";
}

TEST(DirectoryLook, A1_10_a_directory_that_is_not_mounted_is_not_made) {
  const test::TempFolder folder;
  const std::string missing = folder.path() + "/shared";
  const auto looked = look_at_directory(missing, "host-1", 1);
  EXPECT_EQ(looked.error().code, Errc::not_found);
  EXPECT_NE(looked.error().text().find(missing), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(missing));
}

}  // namespace
}  // namespace virga
