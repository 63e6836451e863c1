#include "driver/iscsi/iscsi_store.h"

#include <memory>
#include <utility>

#include "driver/iscsi/iscsi_access.h"

namespace virga {
namespace {

class IscsiDevice final : public DeviceAccess {
 public:
  IscsiDevice(AsioLoop& loop, IscsiOptions options)
      : options_(std::move(options)), daemon_(loop, options_) {}

  BlockStoreCapabilities capabilities() const override {
    return {"iscsi", true, false, false, true};
  }

  std::unique_ptr<VolumeAccess> volume(VolumeContext&, VolumeFolder folder,
                                       const VolumeId& volume) override {
    return std::make_unique<IscsiAccess>(daemon_, options_, std::move(folder), volume);
  }

 private:
  const IscsiOptions options_;
  TargetDaemon daemon_;
};

}  // namespace

IscsiStore::IscsiStore(AsioLoop& loop, IscsiOptions options)
    : RecordedStore(loop, options.directory, std::make_unique<IscsiDevice>(loop, options)) {}

}  // namespace virga
