#pragma once

#include <functional>
#include <memory>

#include "driver/block_store.h"
#include "driver/volumes/volume_access.h"
#include "driver/volumes/volume_record.h"
#include "edge/call_queue.h"

namespace virga {

/// One volume: its record, and who is let in by it. Calls are carried out one after the other. Order of each: what must
/// never be forgotten goes to the disk first, then effects. Loop thread only.
class RecordedVolume {
 public:
  RecordedVolume(VolumeContext& context, VolumeFolder folder, VolumeRecord record,
                 std::unique_ptr<VolumeAccess> access);
  RecordedVolume(const RecordedVolume&) = delete;
  RecordedVolume& operator=(const RecordedVolume&) = delete;

  /// Goes on where an earlier agent has stopped: whom the record knows is served, others are cut off. Tried again by
  /// itself when it fails.
  void resume(Callback<void> done);

  void grow(Mib size_mib, Callback<void> done);
  void attach(const Epoch& epoch, const Epoch& beside, Callback<VolumeEndpoint> done);
  void revoke(const Epoch& epoch, Callback<void> done);
  void release(const Epoch& epoch, Callback<void> done);
  void detach(const Epoch& epoch, Callback<void> done);

  /// Begins a copy of it or looks at one, see VolumeAccess. Errors: unavailable (it is not whole itself).
  void copy(const VolumeCopy& copy, Callback<CopyState> done);
  void end_copy(const VolumeCopy& copy, Callback<void> done);

  /// A volume that is not whole: begins anew with this size; has begun; why it does not go on; is whole.
  void refit(Mib size_mib, Callback<void> done);
  void taken(WallTime at, Callback<void> done);
  void failing(std::string why) { failing_ = std::move(why); }
  const std::string& failing() const { return failing_; }
  void filled(Callback<void> done);

  /// Removes its files. What is asked after that is answered not_found. Errors: conflict (is attached).
  void erase(Callback<void> done);

  /// It was erased and nobody waits for an answer.
  bool over() const { return erased_ && calls_.idle(); }

  ObservedVolume observe() const;
  const VolumeRecord& record() const { return record_; }
  const VolumeFolder& folder() const { return folder_; }

 private:
  void enqueue(CallQueue::Step step, Callback<void> done);
  void on_worker(std::function<Result<void>()> job, Callback<void> done);
  void persist(Callback<void> done);
  Result<void> let_in(const Epoch& epoch, const Epoch& beside);
  void attach_now(const Epoch& epoch, const Epoch& beside, const Callback<void>& done);
  void serve(Callback<void> done);
  void detach_now(const Epoch& epoch, const Callback<void>& done);
  void forget(const Epoch& epoch, Callback<void> done);
  void strike(const Epoch& epoch, const Callback<void>& done);
  void bar(const Epoch& epoch, const Callback<void>& done);
  void cut(Callback<void> done);
  void cut_all(Callback<void> done);
  void grow_now(Mib size_mib, const Callback<void>& done);
  void copy_now(const VolumeCopy& copy, const std::shared_ptr<CopyState>& state,
                const Callback<void>& done);
  void erase_now(const Callback<void>& done);
  void serve_later();

  VolumeContext& context_;
  const VolumeFolder folder_;
  VolumeRecord record_;
  std::unique_ptr<VolumeAccess> access_;
  CallQueue calls_;
  bool erased_ = false;
  std::string failing_;  ///< why it is not whole yet
  Timer again_;
  Duration pause_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
