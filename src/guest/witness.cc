#include "guest/witness.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "guest/boot.h"

namespace virga::guest {
namespace {

constexpr std::size_t kBlockBytesMax = 4096;
constexpr char kFormat[] = "VIRGA-WITNESS %llu %63s\n";

struct alignas(kBlockBytesMax) Block {
  unsigned char bytes[kBlockBytesMax] = {};
};

bool is_blank(const Block& block, std::size_t bytes) {
  return std::all_of(block.bytes, block.bytes + bytes,
                     [](unsigned char byte) { return byte == 0; });
}

}  // namespace

bool DiskWitness::start() {
  file_ = ::open(device_.c_str(), O_RDWR | O_DIRECT | O_SYNC | O_CLOEXEC);
  if (file_ < 0) return false;
  int bytes = 0;
  if (::ioctl(file_, BLKSSZGET, &bytes) == 0 && bytes > 512) block_bytes_ = kBlockBytesMax;
  Block first;
  if (::pread(file_, first.bytes, block_bytes_, 0) != static_cast<ssize_t>(block_bytes_)) {
    say("witness " + device_ + ": the first block cannot be read");
    return false;
  }
  unsigned long long previous = 0;
  char boot[64] = {};
  first.bytes[block_bytes_ - 1] = 0;
  const char* text = reinterpret_cast<const char*>(first.bytes);
  if (!is_blank(first, block_bytes_) && std::sscanf(text, kFormat, &previous, boot) != 2) {
    say("witness " + device_ + ": holds other data, left alone");
    return false;
  }
  sequence_ = previous;
  std::thread([this] { run(); }).detach();
  return true;
}

std::uint64_t DiskWitness::disk_bytes() const {
  std::uint64_t bytes = 0;
  return ::ioctl(file_, BLKGETSIZE64, &bytes) == 0 ? bytes : 0;
}

void DiskWitness::run() {
  Block seen;
  Block last;
  if (::pread(file_, last.bytes, block_bytes_, 0) < 0) ++errors_;
  while (true) {
    beat(seen.bytes, last.bytes);
    ::sleep(1);
  }
}

void DiskWitness::beat(unsigned char* seen, unsigned char* last) {
  const auto bytes = static_cast<ssize_t>(block_bytes_);
  if (::pread(file_, seen, block_bytes_, 0) != bytes) {
    ++errors_;
    return;
  }
  if (std::memcmp(seen, last, block_bytes_) != 0) {
    ++foreign_writes_;
    seen[block_bytes_ - 1] = 0;
    say("DISK-FOREIGN-WRITE " + device_ + ": " + reinterpret_cast<const char*>(seen));
  }
  std::memset(last, 0, block_bytes_);
  std::snprintf(reinterpret_cast<char*>(last), block_bytes_, "VIRGA-WITNESS %llu %s\n",
                static_cast<unsigned long long>(sequence_ + 1), boot_id_.c_str());
  if (::pwrite(file_, last, block_bytes_, 0) != bytes) {
    ++errors_;
    std::memcpy(last, seen, block_bytes_);
    return;
  }
  ++sequence_;
}

}  // namespace virga::guest
