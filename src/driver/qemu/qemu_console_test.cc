#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "driver/qemu/boot_sectors.h"
#include "driver/qemu/test_lab.h"
#include "driver/qemu/vm_files.h"

namespace virga {
namespace {

constexpr std::size_t kKept = 256 << 10;  // at least, and at most twice that
constexpr std::size_t kSaid = 1 << 20;

/// Writes kSaid dots, "end" and a line feed to the serial port, as fast as it can.
std::string talkative() {
  return boot_sectors::sector(
      "baf803"        //        mov dx, 0x3f8
      "b02e"          //        mov al, '.'
      "66b900001000"  //        mov ecx, 0x100000
      "ee"            // again: out dx, al
      "67e2fc"        //        addr32 loop again
      "b065eeb06eeeb064eeb00aee"
      "f4ebfd");
}

TEST(QemuConsole, F_B4_TheConsoleOfARunningGuestTakesABoundedPartOfTheDiskAndKeepsItsEnd) {
  QemuLab lab;
  const VmLaunch web = lab.launch("web", 1);
  lab.write_root(web, talkative());
  const auto started =
      lab.wait<void>([&](Callback<void> done) { lab.host(0).start(web, std::move(done)); });
  ASSERT_TRUE(started.ok()) << started.error().text();
  const std::string path = vm_folder(lab.run(0), web.vm)->console();
  const auto taken = [&] {
    struct stat seen {};
    EXPECT_EQ(::stat(path.c_str(), &seen), 0);
    return static_cast<std::size_t>(seen.st_blocks) * 512;
  };
  const auto tail = [&](std::size_t bytes) {
    const auto text = lab.host(0).console_tail(web.vm, bytes);
    return text ? *text : text.error().text();
  };
  const auto has_ended = [&] { return tail(1000).find(".end\n") != std::string::npos; };
  ASSERT_TRUE(lab.run_until(has_ended, seconds(40))) << tail(100);
  EXPECT_TRUE(lab.run_until([&] { return taken() <= 2 * kKept; }, seconds(20))) << taken();
  EXPECT_GE(taken(), kKept);
  EXPECT_GT(std::filesystem::file_size(path), kSaid) << "freed at its beginning, not cut off";
  const std::string rest = tail(kSaid);
  EXPECT_EQ(rest.size(), kKept);
  EXPECT_EQ(rest.find('\0'), std::string::npos) << "nothing of its end is missing";
  EXPECT_EQ(lab.host(0).observe().at(0).power, VmPower::running);
}

}  // namespace
}  // namespace virga
