#include "driver/directory/directory_store.h"

#include <memory>
#include <utility>

#include "driver/directory/directory_access.h"

namespace virga {
namespace {

class Directory final : public DeviceAccess {
 public:
  explicit Directory(DirectoryOptions options) : options_(std::move(options)) {}

  BlockStoreCapabilities capabilities() const override {
    return {"file", false, true, false, true};
  }

  std::unique_ptr<VolumeAccess> volume(VolumeContext& context, VolumeFolder folder,
                                       const VolumeId& volume) override {
    const std::string seen_at = options_.seen_at.empty() ? options_.directory : options_.seen_at;
    return std::make_unique<DirectoryAccess>(context, options_.consumers, std::move(folder),
                                             VolumeFolder{seen_at + "/" + volume.value});
  }

 private:
  const DirectoryOptions options_;
};

}  // namespace

DirectoryStore::DirectoryStore(AsioLoop& loop, DirectoryOptions options)
    : RecordedStore(loop, options.directory, std::make_unique<Directory>(options)) {}

}  // namespace virga
