#pragma once

#include <memory>
#include <string>
#include <vector>

#include "driver/iscsi/target_daemon.h"
#include "driver/volumes/volume_access.h"

namespace virga {

/// One volume over iSCSI: a target of the device's daemon for each attachment.
class IscsiAccess final : public VolumeAccess {
 public:
  IscsiAccess(TargetDaemon& daemon, const IscsiOptions& options, VolumeFolder folder,
              const VolumeId& volume);

  /// tgtd does not take a new size, and consumers would not see it.
  Growth growth() const override { return Growth::detached; }
  Result<void> know() override { return daemon_.know(); }
  void serve(const VolumeRecord& record, Callback<void> done) override;
  void cut(const VolumeRecord& record, Callback<void> done) override;
  bool served() const override { return served_ && daemon_.running(); }
  VolumeEndpoint endpoint(const VolumeRecord& record,
                          const AttachmentRecord& attachment) const override;

 private:
  std::vector<Target> targets_of(const VolumeRecord& record) const;

  TargetDaemon& daemon_;
  const IscsiOptions& options_;
  const std::string prefix_;  ///< of the names of this volume's targets
  const std::string serial_;
  bool served_ = false;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
  std::shared_ptr<Task> ended_;
};

}  // namespace virga
