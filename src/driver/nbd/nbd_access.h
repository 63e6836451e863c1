#pragma once

#include <memory>
#include <string>
#include <vector>

#include "driver/nbd/storage_daemon.h"
#include "driver/volumes/volume_access.h"

namespace virga {

/// One volume over NBD: while anybody is let in it has a qemu-storage-daemon of its own, with an export for each
/// attachment.
class NbdAccess final : public VolumeAccess {
 public:
  NbdAccess(VolumeContext& context, const NbdOptions& options, VolumeFolder folder);

  Result<void> know() override;
  Result<void> prepare(VolumeRecord& record) override;
  void serve(const VolumeRecord& record, Callback<void> done) override;
  void cut(const VolumeRecord& record, Callback<void> done) override;
  bool served() const override { return served_; }
  void copy(const VolumeRecord& record, const VolumeCopy& copy, Callback<CopyState> done) override;
  void end_copy(const VolumeRecord& record, const VolumeCopy& copy, Callback<void> done) override;
  VolumeEndpoint endpoint(const VolumeRecord& record,
                          const AttachmentRecord& attachment) const override;

 private:
  void take_server();
  Result<void> start_server(int& port);
  void write_keys(Callback<void> done);
  void serve_once(Callback<void> done);
  void serve_or_replace(Callback<void> done);
  void align(Callback<void> done);
  void align_with(const std::vector<std::string>& served, Callback<void> done);
  void connected(Callback<void> done);
  void copied(const Result<CopyState>& state, const Callback<CopyState>& done);
  void end_server(Callback<void> done);
  void exited_with(const Result<void>& outcome);
  void server_exited();

  VolumeContext& context_;
  const NbdOptions& options_;
  const NbdFiles files_;
  VolumeRecord wanted_;  ///< of the last call
  std::unique_ptr<StorageDaemon> daemon_;
  bool served_ = false;
  Callback<void> on_exit_;  ///< who waits for the server's end
  Timer exit_deadline_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
