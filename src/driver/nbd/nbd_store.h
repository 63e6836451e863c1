#pragma once

#include <map>
#include <memory>
#include <vector>

#include "driver/block_store.h"
#include "driver/nbd/nbd_volume.h"

namespace virga {

/// Volumes as raw sparse files of one folder, each served by a qemu-storage-daemon of its own over NBD with TLS-PSK:
/// own port, own keys, own process to kill. Servers outlive this object. Loop thread only.
/// Source: QEMU 7.2, docs/tools/qemu-storage-daemon.rst, qapi/block-export.json.
class NbdStore : public BlockStore {
 public:
  NbdStore(AsioLoop& loop, NbdOptions options);
  ~NbdStore() override;

  void open(Callback<void> done) override;
  void create(const VolumeId& volume, Mib size_mib, const Epoch& revoked,
              Callback<void> done) override;
  void grow(const VolumeId& volume, Mib size_mib, Callback<void> done) override;
  void erase(const VolumeId& volume, Callback<void> done) override;
  void attach(const VolumeId& volume, const Epoch& epoch, const Epoch& beside,
              Callback<VolumeEndpoint> done) override;
  void revoke(const VolumeId& volume, const Epoch& epoch, Callback<void> done) override;
  void detach(const VolumeId& volume, const Epoch& epoch, Callback<void> done) override;
  std::vector<ObservedVolume> observe() const override;

 private:
  Result<NbdVolume*> find(const VolumeId& volume);
  void resume_all(Callback<void> done);

  AsioLoop& loop_;
  NbdOptions options_;
  Worker worker_;
  NbdContext context_;
  std::map<VolumeId, std::unique_ptr<NbdVolume>> volumes_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
