#pragma once

#include <functional>
#include <map>
#include <memory>

#include "driver/volumes/recorded_volume.h"

namespace virga {

/// The volumes of one device that are being copied from others of it. A volume's record says that it is not whole; so
/// long this begins, looks and begins again: what was lost with a process is simply found not to be there. Loop thread
/// only.
class VolumeCopies {
 public:
  /// The volume of a name, or nullptr.
  using Find = std::function<RecordedVolume*(const VolumeId&)>;

  VolumeCopies(AsioLoop& loop, Find find) : loop_(loop), find_(std::move(find)) {}
  VolumeCopies(const VolumeCopies&) = delete;
  VolumeCopies& operator=(const VolumeCopies&) = delete;

  /// Goes on until it is whole or end() is called; one under way already goes on.
  void begin(const VolumeId& volume);

  /// Completes when nothing writes to the volume's medium any more. One that is not under way counts as ended.
  void end(const VolumeId& volume, Callback<void> done);

  /// A volume that is being copied from this one; nullptr = none.
  const VolumeId* copy_of(const VolumeId& source) const;

 private:
  struct Copy {
    explicit Copy(Loop& loop) : again(loop) {}
    Timer again;
    VolumeId source;
  };

  void look(const VolumeId& volume);
  void look_again(const VolumeId& volume, Duration pause);
  void failed(const VolumeId& volume, const Error& why);
  void seen(const VolumeId& volume, CopyState state);
  void whole(const VolumeId& volume);
  Callback<void> then(const VolumeId& volume, Task task);

  AsioLoop& loop_;
  const Find find_;
  std::map<VolumeId, std::unique_ptr<Copy>> copies_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
