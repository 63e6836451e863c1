#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "driver/rbd/ceph_admin.h"
#include "driver/rbd/rbd_store.h"
#include "driver/volumes/volume_access.h"

namespace virga {

/// One volume as an image in Ceph.
class RbdAccess final : public VolumeAccess {
 public:
  RbdAccess(VolumeContext& context, const RbdOptions& options, VolumeFolder folder,
            const VolumeId& volume);

  Result<void> make_medium(const VolumeRecord& record) const override;
  Result<void> grow_medium(const VolumeRecord& record, Mib size_mib) const override;
  Result<void> remove_medium(const VolumeRecord& record) const override;
  Bytes used_bytes() const override { return {used_}; }
  Growth growth() const override { return Growth::open; }

  void serve(const VolumeRecord& record, Callback<void> done) override;
  void cut(const VolumeRecord& record, Callback<void> done) override;
  bool cut_proves() const override { return false; }
  void prove_ended(const VolumeRecord& record, Callback<void> done) override;
  bool served() const override { return served_; }
  VolumeEndpoint endpoint(const VolumeRecord& record,
                          const AttachmentRecord& attachment) const override;

 private:
  CephAdmin admin() const;
  void work(std::function<Result<CephCut>(CephAdmin&)> job, const VolumeRecord& record,
            Callback<void> done);
  void note(const CephCut& cut, const VolumeRecord& record);
  void look_at_usage();

  VolumeContext& context_;
  const RbdOptions& options_;
  const CephImage image_;
  std::int64_t used_ = 0;
  bool served_ = false;
  std::set<std::string> cut_;  ///< users whose clients were found and cut
  Timer usage_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
