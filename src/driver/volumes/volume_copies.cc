#include "driver/volumes/volume_copies.h"

#include <utility>

#include "base/log.h"

namespace virga {
namespace {

constexpr Duration kLookEvery = milliseconds(250);
constexpr Duration kPause = seconds(2);

VolumeCopy copy_into(const RecordedVolume& volume) {
  return {volume.record().volume, volume.folder().image()};
}

}  // namespace

const VolumeId* VolumeCopies::copy_of(const VolumeId& source) const {
  for (const auto& [id, copy] : copies_) {
    if (copy->source == source) return &id;
  }
  return nullptr;
}

void VolumeCopies::begin(const VolumeId& volume) {
  const RecordedVolume* copied = find_(volume);
  if (copied == nullptr || copied->record().source.empty() || copies_.contains(volume)) return;
  auto copy = std::make_unique<Copy>(loop_);
  copy->source = copied->record().source;
  copies_[volume] = std::move(copy);
  look_again(volume, Duration(0));
}

void VolumeCopies::look_again(const VolumeId& volume, Duration pause) {
  copies_.at(volume)->again.set_after(pause, [this, volume] { look(volume); });
}

/// What goes on after a call that succeeded, if the copy is still wanted then.
Callback<void> VolumeCopies::then(const VolumeId& volume, Task task) {
  return [this, volume, task = std::move(task),
          alive = std::weak_ptr(alive_)](const Result<void>& ended) {
    if (alive.expired() || !copies_.contains(volume)) return;
    ended ? task() : failed(volume, ended.error());
  };
}

void VolumeCopies::look(const VolumeId& volume) {
  RecordedVolume* copied = find_(volume);
  if (copied == nullptr) return;
  const VolumeId source_id = copied->record().source;
  RecordedVolume* source = find_(source_id);
  if (source == nullptr) {
    return failed(volume, make_error(Errc::not_found,
                                     "its source " + source_id.value + " is not on this device"));
  }
  // A source that has grown was cut off for it, and the copy with it.
  if (copied->record().size_mib != source->record().size_mib) {
    return copied->refit(source->record().size_mib,
                         then(volume, [this, volume] { look_again(volume, Duration(0)); }));
  }
  source->copy(copy_into(*copied),
               [this, volume, alive = std::weak_ptr(alive_)](Result<CopyState> state) {
                 if (alive.expired() || !copies_.contains(volume)) return;
                 state ? seen(volume, *state) : failed(volume, state.error());
               });
}

void VolumeCopies::failed(const VolumeId& volume, const Error& why) {
  RecordedVolume* copied = find_(volume);
  if (copied != nullptr && copied->failing() != why.text()) {
    log_line(LogLevel::warning, "volume", volume.value + ": " + why.text());
    copied->failing(why.text());
  }
  look_again(volume, kPause);
}

void VolumeCopies::seen(const VolumeId& volume, CopyState state) {
  RecordedVolume* copied = find_(volume);
  if (copied == nullptr) return;
  if (state != CopyState::waits) copied->failing({});
  const auto again = then(volume, [this, volume] { look_again(volume, kLookEvery); });
  if (state == CopyState::began) return copied->taken(loop_.wall_now(), again);
  if (state == CopyState::complete) {
    return copied->filled(then(volume, [this, volume] { whole(volume); }));
  }
  again({});
}

void VolumeCopies::whole(const VolumeId& volume) {
  log_line(LogLevel::info, "volume", volume.value + " is whole");
  copies_.erase(volume);
}

void VolumeCopies::end(const VolumeId& volume, Callback<void> done) {
  const auto copy = copies_.find(volume);
  if (copy == copies_.end()) return done({});
  RecordedVolume* source = find_(copy->second->source);
  const RecordedVolume* copied = find_(volume);
  copies_.erase(copy);
  if (source == nullptr || copied == nullptr) return done({});
  source->end_copy(copy_into(*copied), [this, volume, done = std::move(done),
                                        alive = std::weak_ptr(alive_)](Result<void> ended) {
    if (alive.expired()) return;
    if (!ended) begin(volume);
    done(std::move(ended));
  });
}

}  // namespace virga
