#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "driver/volumes/recorded_volume.h"
#include "edge/process.h"
#include "edge/worker.h"
#include "image/image_checks.h"

namespace virga {

/// The volumes of one device that are being filled from images. A volume's record says that it is not whole; so long
/// this reads the image, when it is what it must be, and lets `qemu-img convert` write its disk into the volume's file,
/// at a bounded rate. What fills ends with its agent; the next one begins anew. Loop thread only.
class VolumeFills {
 public:
  /// The volume of a name, or nullptr.
  using Find = std::function<RecordedVolume*(const VolumeId&)>;

  VolumeFills(AsioLoop& loop, Find find);
  ~VolumeFills();
  VolumeFills(const VolumeFills&) = delete;
  VolumeFills& operator=(const VolumeFills&) = delete;

  /// Of those that begin to write from now on.
  void limit(Mib per_second) { per_second_ = per_second; }

  /// Goes on until it is whole or end() is called; one under way already goes on.
  void begin(const VolumeId& volume);

  /// Completes when nothing writes to the volume's file any more. One that is not under way counts as ended.
  void end(const VolumeId& volume, Callback<void> done);

 private:
  struct Fill {
    explicit Fill(Loop& loop) : again(loop) {}
    Timer again;
    std::unique_ptr<Process> process;   ///< while it writes
    std::vector<Callback<void>> ended;  ///< not empty: it shall end
  };

  void check(const VolumeId& volume);
  void convert(const VolumeId& volume);
  void converted(const VolumeId& volume, ProcessExit exit);
  void failed(const VolumeId& volume, const Error& why);
  void whole(const VolumeId& volume);
  Callback<void> then(const VolumeId& volume, Task task);

  AsioLoop& loop_;
  const Find find_;
  Mib per_second_{100};
  ImageChecks checks_;
  std::map<VolumeId, std::shared_ptr<Fill>> fills_;
  Worker reader_;  ///< last: its end waits for what is being read
};

}  // namespace virga
