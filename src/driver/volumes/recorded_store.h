#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "driver/block_store.h"
#include "driver/volumes/recorded_volume.h"
#include "driver/volumes/volume_copies.h"
#include "driver/volumes/volume_fills.h"

namespace virga {

/// The part of a BlockStore that no protocol changes: one folder a volume below the device's, with a record that says
/// who is let in. A protocol adds its DeviceAccess. What serves consumers outlives this object. Loop thread only.
class RecordedStore : public BlockStore {
 public:
  RecordedStore(AsioLoop& loop, std::string directory, std::unique_ptr<DeviceAccess> access);
  ~RecordedStore() override;

  BlockStoreCapabilities capabilities() const override { return context_.can; }
  void open(Callback<void> done) override;
  void create(const VolumeId& volume, Mib size_mib, const Epoch& revoked,
              Callback<void> done) override;
  void create_from_image(const VolumeId& volume, Mib size_mib, const ImageDisk& image,
                         const Epoch& revoked, Callback<void> done) override;
  void copy(const VolumeId& volume, const VolumeId& source, const Epoch& revoked,
            Callback<void> done) override;
  void grow(const VolumeId& volume, Mib size_mib, Callback<void> done) override;
  void erase(const VolumeId& volume, Callback<void> done) override;
  void attach(const VolumeId& volume, const Epoch& epoch, const Epoch& beside,
              Callback<VolumeEndpoint> done) override;
  void revoke(const VolumeId& volume, const Epoch& epoch, Callback<void> done) override;
  void release(const VolumeId& volume, const Epoch& epoch, Callback<void> done) override;
  void detach(const VolumeId& volume, const Epoch& epoch, Callback<void> done) override;
  void limit_copies(Mib per_second) override;
  std::vector<ObservedVolume> observe() const override;
  RealSpace space() const override { return access_->space(directory_); }

 private:
  Result<RecordedVolume*> find(const VolumeId& volume);
  Result<void> check_room(const VolumeId& volume, Mib more) const;
  void read_all(Callback<void> done);
  void resume_all(Callback<void> done);
  RecordedVolume* seek(const VolumeId& volume);
  void fill_on(const VolumeId& volume);
  void note_erased(const VolumeId& volume, const Result<void>& erased, const Callback<void>& done);
  void make_new(const VolumeRecord& record, Callback<void> done);
  void make(const VolumeFolder& folder, const VolumeRecord& record, Callback<void> done);

  AsioLoop& loop_;
  const std::string directory_;
  std::unique_ptr<DeviceAccess> access_;
  VolumeContext context_;
  std::map<VolumeId, std::unique_ptr<RecordedVolume>> volumes_;
  std::set<VolumeId> making_;
  std::vector<std::unique_ptr<RecordedVolume>> erased_;  ///< until nobody waits for their answers
  VolumeCopies copies_;
  VolumeFills fills_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
  Worker worker_;  ///< last: its end waits for calls under way, which use the volumes
};

}  // namespace virga
