#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "base/time.h"

namespace virga {

/// What the leash must still know after it was killed and started again: the deadline and which processes it holds.
/// A fixed block of memory, mapped from a file on tmpfs; writing is a plain store, so that no disk, full or hung,
/// can stop the leash. Belongs to one boot of the machine: another boot's file counts as empty.
class LeashTable {
 public:
  struct Entry {
    char name[160];
    std::int32_t pid;
    std::uint32_t used;
    std::uint64_t start_ticks;
  };

  /// An empty path keeps everything in memory only. Errors: denied, exhausted, invalid (not this program's file).
  static Result<LeashTable> open(const std::string& path, const std::string& boot_id);

  LeashTable(LeashTable&& other) noexcept;
  LeashTable& operator=(LeashTable&&) = delete;
  ~LeashTable();

  Instant deadline() const;
  void set_deadline(Instant deadline);

  /// Errors: exhausted, invalid (name too long).
  Result<void> add(const std::string& name, pid_t pid, std::uint64_t start_ticks);
  void remove(const std::string& name, pid_t pid);
  void each(const std::function<void(const Entry& entry)>& visit) const;

 private:
  struct Image;
  explicit LeashTable(Image* image) : image_(image) {}

  Image* image_;
};

}  // namespace virga
