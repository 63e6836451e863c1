#include "driver/nbd/nbd_store.h"

#include <memory>
#include <utility>

#include "driver/nbd/nbd_access.h"

namespace virga {
namespace {

class NbdDevice final : public DeviceAccess {
 public:
  explicit NbdDevice(NbdOptions options) : options_(std::move(options)) {}

  BlockStoreCapabilities capabilities() const override { return {"nbd", true, true, true, true}; }

  std::unique_ptr<VolumeAccess> volume(VolumeContext& context, VolumeFolder folder,
                                       const VolumeId&) override {
    return std::make_unique<NbdAccess>(context, options_, std::move(folder));
  }

  void limit_copies(Mib per_second) override { options_.copied_a_second = per_second; }

 private:
  NbdOptions options_;
};

}  // namespace

NbdStore::NbdStore(AsioLoop& loop, NbdOptions options)
    : RecordedStore(loop, options.directory, std::make_unique<NbdDevice>(options)) {}

}  // namespace virga
