#pragma once

#include <atomic>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/launch.h"

namespace virga {

/// Whether the files of an image are those that were registered. They are read once for as long as they stay the same
/// files (device, inode, length, time of change). `files` are open for reading, in the order in which the digest was
/// made; their offsets stay. Thread-safe.
class ImageChecks {
 public:
  /// They were found right before. Quick.
  bool known(const std::vector<int>& files, const LaunchImage& registered) const;

  /// Blocking: reads all of them unless they are known. Errors: invalid (length or digest, with both values),
  /// cancelled, internal (reading).
  Result<void> check(const std::vector<int>& files, const LaunchImage& registered);

  /// Ends what is being read, and all that is asked later.
  void cancel() { cancelled_ = true; }

 private:
  Result<std::string> digest_of(const std::vector<int>& files) const;

  std::atomic<bool> cancelled_ = false;
  mutable std::mutex mutex_;
  std::set<std::string> sound_;  ///< what was found right: digest and files
};

}  // namespace virga
