#pragma once

#include <memory>
#include <string>

#include "driver/directory/directory_store.h"
#include "driver/volumes/volume_access.h"

namespace virga {

/// One volume as a file: each attachment is a hard link of its own to the image.
class DirectoryAccess final : public VolumeAccess {
 public:
  /// `seen`: the volume's folder as consumers have it.
  DirectoryAccess(VolumeContext& context, DirectoryOptions::Consumers consumers,
                  VolumeFolder folder, VolumeFolder seen);

  Growth growth() const override { return Growth::open; }
  void serve(const VolumeRecord& record, Callback<void> done) override;
  void cut(const VolumeRecord& record, Callback<void> done) override;
  bool cut_proves() const override { return false; }
  void prove_ended(const VolumeRecord& record, Callback<void> done) override;
  bool served() const override { return served_; }
  VolumeEndpoint endpoint(const VolumeRecord& record,
                          const AttachmentRecord& attachment) const override;

 private:
  void on_worker(std::function<Result<void>()> job, Callback<void> done);

  VolumeContext& context_;
  const DirectoryOptions::Consumers consumers_;
  const VolumeFolder seen_;
  bool served_ = false;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
