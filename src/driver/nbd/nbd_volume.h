#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "driver/block_store.h"
#include "driver/nbd/storage_daemon.h"
#include "driver/nbd/volume_record.h"
#include "edge/worker.h"

namespace virga {

/// What all volumes of a device share. Outlives them.
struct NbdContext {
  AsioLoop& loop;
  const NbdOptions& options;
  Worker& worker;  ///< for files: a device may be slow
};

/// One volume: its record, its image and, while it is attached, its server. Calls are carried out one after the other.
/// Order of each: what must never be forgotten goes to the disk first, then effects. Loop thread only.
class NbdVolume {
 public:
  NbdVolume(NbdContext& context, VolumeFolder folder, VolumeRecord record);
  ~NbdVolume();
  NbdVolume(const NbdVolume&) = delete;
  NbdVolume& operator=(const NbdVolume&) = delete;

  /// Goes on where an earlier agent has stopped: adopts the server or starts one, and brings its exports into line.
  void resume(Callback<void> done);

  void grow(Mib size_mib, Callback<void> done);
  void attach(const Epoch& epoch, const Epoch& beside, Callback<VolumeEndpoint> done);
  void revoke(const Epoch& epoch, Callback<void> done);
  void detach(const Epoch& epoch, Callback<void> done);

  /// Removes its files. Errors: conflict (is attached).
  void erase(Callback<void> done);

  ObservedVolume observe() const;
  const VolumeRecord& record() const { return record_; }

 private:
  using Step = std::function<void(Callback<void>)>;

  void enqueue(Step step, Callback<void> done);
  void next();
  Result<AttachmentRecord*> admit(const Epoch& epoch, const Epoch& beside);
  VolumeEndpoint endpoint_of(const Epoch& epoch) const;
  void grow_now(Mib size_mib, const Callback<void>& done);
  void erase_now(const Callback<void>& done);
  void on_files(std::function<Result<void>()> job, Callback<void> done);
  void persist(Callback<void> done);
  Result<void> start_server();
  void serve(Callback<void> done);
  void serve_once(Callback<void> done);
  void take_server();
  Result<void> know_server();
  void align(Callback<void> done);
  void align_with(const std::vector<std::string>& served, Callback<void> done);
  void cut_off_recorded(const Callback<void>& ended);
  void cut_off(Callback<void> done);
  void end_server(Callback<void> done);
  void exited_with(const Result<void>& outcome);
  void server_exited();
  void restart_later();

  NbdContext& context_;
  VolumeFolder folder_;
  VolumeRecord record_;
  std::unique_ptr<StorageDaemon> daemon_;
  std::deque<std::function<void()>> waiting_;
  bool busy_ = false;
  bool served_ = false;
  bool port_changed_ = false;
  Callback<void> on_exit_;  ///< who waits for the server's end
  Timer exit_deadline_;
  Timer restart_;
  Duration restart_pause_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
