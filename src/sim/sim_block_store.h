#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "driver/block_store.h"

namespace virga::sim {

/// One volume as it really is: what stands on the disk and what its server does.
struct VolumeTruth {
  Mib size_mib;
  Epoch revoked;
  std::map<Epoch, VolumeEndpoint> attachments;  ///< on the disk
  std::map<Epoch, VolumeEndpoint> exports;      ///< whom the server lets in; empty = there is none
  bool hangs = false;                           ///< the server lives and answers nobody
  std::map<std::int64_t, int> blocks;           ///< 64 KiB each: number -> byte that fills it
  Epoch floor{};                                ///< revoked when it was made
  Epoch highest{};                              ///< that was ever attached
  std::uint64_t written = 0;  ///< number of the last write that guests made; see World
  VolumeId source{};          ///< not whole yet: what it is copied from
  std::optional<WallTime> taken_at{};
  std::string image{};  ///< not whole yet: what it is filled from
};

/// A device of a storage node. It outlives agents and servers. Consumers come to it directly.
struct DeviceTruth {
  static constexpr std::int64_t kBlockBytes = 64 << 10;

  /// Fills whole blocks. False when nobody lets this consumer in, or it goes beyond the end.
  bool write(const VolumeEndpoint& with, std::int64_t offset, std::int64_t bytes, int value);

  /// The byte that fills all of the range; nothing when it is not one, or for whom write() would say no.
  std::optional<int> read(const VolumeEndpoint& with, std::int64_t offset,
                          std::int64_t bytes) const;

  /// Whether a consumer gets answers.
  bool lets_in(const VolumeEndpoint& with) const { return admit(with, 0) != nullptr; }

  /// The volume that this consumer gets answers of; nullptr = none.
  VolumeTruth* served(const VolumeEndpoint& with) {
    return const_cast<VolumeTruth*>(admit(with, 0));
  }

  /// Whether this attachment stands in the volume's record: what does not will never write again.
  bool knows(const VolumeId& volume, const VolumeEndpoint& with) const;

  /// The machine has lost its power: all servers are gone, what stands on the disk stays.
  void lose_power();

  /// Ends a volume's server; its agent hears of it.
  void kill_server(const VolumeId& volume);

  /// Nothing is left below it while it is full; what writes to places that it has goes on.
  RealSpace space() const;

  bool full = false;
  std::string address = "127.0.0.1";  ///< of its servers
  std::map<VolumeId, VolumeTruth> volumes;
  std::map<std::string, std::map<std::int64_t, int>> images;  ///< by path; blocks as a volume's
  std::uint64_t serial = 0;                              ///< of secrets and ports
  std::function<void(const VolumeId&)> on_server_ended;  ///< of the agent that runs now

 private:
  const VolumeTruth* admit(const VolumeEndpoint& with, std::int64_t end) const;
};

/// The agent's driver of one simulated device: the same promises as NbdStore, in virtual time.
class SimBlockStore : public BlockStore {
 public:
  SimBlockStore(Loop& agent, DeviceTruth& device);
  ~SimBlockStore() override;

  BlockStoreCapabilities capabilities() const override { return {"nbd", true, true, true, true}; }
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
  void detach(const VolumeId& volume, const Epoch& epoch, Callback<void> done) override;
  void limit_copies(Mib per_second) override { copied_per_second_ = per_second; }
  std::vector<ObservedVolume> observe() const override;
  RealSpace space() const override { return device_.space(); }

 private:
  Result<void> check_room(const VolumeId& volume, Mib more) const;
  void later(const VolumeId& volume, Duration takes, Task task);
  Result<VolumeTruth*> find(const VolumeId& volume);
  void begin_copy(const VolumeId& volume);
  void begin_fill(const VolumeId& volume);
  void begin_copies_of(const VolumeId& source);
  const VolumeId* copy_of(const VolumeId& source) const;
  Duration obedience(const VolumeId& volume) const;
  Result<VolumeEndpoint> let_in(const VolumeId& volume, VolumeTruth& truth, const Epoch& epoch,
                                const Epoch& beside);

  Loop& agent_;
  DeviceTruth& device_;
  Mib copied_per_second_{100};
  std::map<VolumeId, std::uint64_t> copying_;  ///< how often each copy has begun
  std::map<VolumeId, Instant> busy_until_;  ///< calls of one volume end in their order
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga::sim
