#include "driver/rbd/rbd_store.h"

#include <memory>
#include <utility>

#include "driver/rbd/rbd_access.h"

namespace virga {
namespace {

class RbdDevice final : public DeviceAccess {
 public:
  explicit RbdDevice(RbdOptions options) : options_(std::move(options)) {}

  BlockStoreCapabilities capabilities() const override { return {"rbd", true, true, false, false}; }

  std::unique_ptr<VolumeAccess> volume(VolumeContext& context, VolumeFolder folder,
                                       const VolumeId& volume) override {
    return std::make_unique<RbdAccess>(context, options_, std::move(folder), volume);
  }

  /// The pool's is not the records' file system's.
  RealSpace space(const std::string&) const override { return {}; }

 private:
  const RbdOptions options_;
};

}  // namespace

RbdStore::RbdStore(AsioLoop& loop, RbdOptions options)
    : RecordedStore(loop, options.directory, std::make_unique<RbdDevice>(options)) {}

}  // namespace virga
