#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace virga::guest {

/// Proves that a disk has one writer: every second, in a thread of its own, it reads the first block past the cache,
/// compares it with what it wrote last, and writes the next number with the boot's id, straight to the disk.
/// A difference means that somebody else wrote; it is counted and said on the console.
/// A disk whose first block holds anything that is not such a record is never written.
class DiskWitness {
 public:
  DiskWitness(std::string device, std::string boot_id)
      : device_(std::move(device)), boot_id_(std::move(boot_id)) {}

  /// False when there is no such device or it belongs to somebody else. The object must live for ever after.
  bool start();

  std::uint64_t sequence() const {
    return sequence_;
  }  ///< last number on the disk; goes on over boots
  std::uint64_t foreign_writes() const { return foreign_writes_; }
  std::uint64_t errors() const { return errors_; }  ///< reads and writes that failed
  std::uint64_t disk_bytes() const;                 ///< size of the disk now; 0 = not known

 private:
  void run();
  void beat(unsigned char* seen, unsigned char* last);

  std::string device_;
  std::string boot_id_;
  int file_ = -1;
  std::size_t block_bytes_ = 512;
  std::atomic<std::uint64_t> sequence_{0};
  std::atomic<std::uint64_t> foreign_writes_{0};
  std::atomic<std::uint64_t> errors_{0};
};

}  // namespace virga::guest
