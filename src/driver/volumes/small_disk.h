#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "edge/file.h"
#include "edge/process.h"

namespace virga {

/// For tests: a file system of a few MiB that can be filled, in a mount namespace that ends with this process, so that
/// nothing of it is left however the process ends. Programs started after it see it.
class SmallDisk {
 public:
  /// `options` of tmpfs: "size=24m".
  SmallDisk(std::string at, const std::string& options) : at_(std::move(at)) {
    static const bool kApart = ::unshare(CLONE_NEWNS) == 0 &&
                               ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    EXPECT_TRUE(kApart) << "making a mount namespace needs CAP_SYS_ADMIN";
    EXPECT_TRUE(make_folders(at_, 0755).ok());
    EXPECT_EQ(::mount("virga-test", at_.c_str(), "tmpfs", 0, (options + ",mode=755").c_str()), 0);
  }
  ~SmallDisk() { ::umount2(at_.c_str(), MNT_DETACH); }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  /// To the last byte, but for `kept`.
  void fill(std::int64_t kept = 0) {
    const Descriptor ballast(::open(ballast_path().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(ballast.valid());
    std::int64_t size = 0;
    for (const std::size_t piece : {std::size_t{1} << 20, std::size_t{4096}}) {
      const std::string block(piece, 'b');
      ssize_t written = 1;
      for (; written > 0; size += std::max<ssize_t>(written, 0)) {
        written = ::pwrite(ballast.get(), block.data(), block.size(), size);
      }
    }
    ASSERT_EQ(::ftruncate(ballast.get(), std::max<std::int64_t>(0, size - kept)), 0);
  }
  void make_room() { ::unlink(ballast_path().c_str()); }

  /// So many files can be made, not one more.
  void leave_files(int count) {
    const auto name = [this](int number) { return at_ + "/file" + std::to_string(number); };
    for (int number = 0;; ++number) {
      const Descriptor file(::open(name(number).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
      if (!file.valid()) break;
      files_ = std::max(files_, number + 1);
    }
    for (; count > 0 && files_ > 0; --count) ::unlink(name(--files_).c_str());
  }

 private:
  std::string ballast_path() const { return at_ + "/ballast"; }

  const std::string at_;
  int files_ = 0;
};

}  // namespace virga
