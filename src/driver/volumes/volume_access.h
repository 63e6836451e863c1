#pragma once

#include <memory>
#include <string>

#include "driver/block_store.h"
#include "driver/volumes/volume_record.h"
#include "edge/asio_loop.h"
#include "edge/worker.h"

namespace virga {

/// What the volumes of a device share. Outlives them.
struct VolumeContext {
  AsioLoop& loop;
  Worker& worker;  ///< for what blocks: a device may be slow
  BlockStoreCapabilities can;
};

/// How a volume takes a new size.
enum class Growth {
  open,      ///< under its consumers
  cut_off,   ///< they are cut off for a moment and find it again
  detached,  ///< only when nobody is attached
};

/// A copy that is made of a volume: a file of its size that is there already and that nobody else has open.
struct VolumeCopy {
  VolumeId volume;  ///< the copy's name
  std::string image;
};

enum class CopyState {
  waits,     ///< another copy of the volume is under way
  began,     ///< now: what the volume holds at this moment
  goes_on,   ///< one that began before, maybe for an earlier agent
  complete,  ///< all of it is in the file, not yet on the disk
};

/// What one protocol does for one volume: it lets consumers in and cuts them off. Who is let in, and in which order
/// records and effects follow each other, is decided by RecordedVolume alone, which makes one call at a time.
/// Loop thread only but for the medium; completions come on the loop, in the time that BlockStore promises.
class VolumeAccess {
 public:
  explicit VolumeAccess(VolumeFolder folder) : folder_(std::move(folder)) {}
  virtual ~VolumeAccess() = default;
  VolumeAccess(const VolumeAccess&) = delete;
  VolumeAccess& operator=(const VolumeAccess&) = delete;

  /// `handler`: what served the volume has ended by itself; serve() is wanted.
  void on_lost(Task handler) { lost_ = std::move(handler); }

  /// The medium: a raw sparse file of the volume's folder, unless the protocol has another. Blocking, on a worker.
  /// make: empty whatever was there. remove: one that is not there counts as removed. settle: what was copied into it
  /// is on the disk, holes take no room. used_bytes: cheap, any thread.
  virtual Result<void> make_medium(const VolumeRecord& record) const;
  virtual Result<void> grow_medium(const VolumeRecord& record, Mib size_mib) const;
  virtual Result<void> remove_medium(const VolumeRecord& record) const;
  virtual Result<void> settle_medium() const;
  virtual Bytes used_bytes() const;
  virtual Growth growth() const { return Growth::cut_off; }

  /// Before each call below: whether it is known what an earlier agent has left behind. Until then nothing is done,
  /// for a consumer might still write through it.
  virtual Result<void> know() { return {}; }

  /// Fills in what endpoints name and the record keeps (the port), before the record goes to the disk. Lets nobody in.
  virtual Result<void> prepare(VolumeRecord&) { return {}; }

  /// Lets in exactly admitted_of(record) and cuts off everybody else. Repeated, it disturbs nobody who stays.
  virtual void serve(const VolumeRecord& record, Callback<void> done) = 0;

  /// When it succeeds nobody but admitted_of(record) can get in any more, and, where cut_proves(), nobody else can
  /// write. Those who stay may have to wait for the next serve().
  virtual void cut(const VolumeRecord& record, Callback<void> done) = 0;

  /// Whether the success of cut() is proof. Else it takes prove_ended() besides, right after it: that no attachment of
  /// the record that is revoked can write any more. Errors: unavailable (it can, or nobody knows).
  virtual bool cut_proves() const { return true; }
  virtual void prove_ended(const VolumeRecord&, Callback<void> done) { done({}); }

  /// Consumers get answers now.
  virtual bool served() const = 0;

  /// Where capabilities().copies. Begins a copy, or looks how far it has come; after `complete` it is forgotten, after
  /// an error too. After prepare(). end_copy(): when it succeeds nothing writes to the file any more.
  virtual void copy(const VolumeRecord& record, const VolumeCopy& copy, Callback<CopyState> done);
  virtual void end_copy(const VolumeRecord& record, const VolumeCopy& copy, Callback<void> done);

  virtual VolumeEndpoint endpoint(const VolumeRecord& record,
                                  const AttachmentRecord& attachment) const = 0;

 protected:
  const VolumeFolder folder_;
  Task lost_;
};

/// What one protocol does for a device.
class DeviceAccess {
 public:
  virtual ~DeviceAccess() = default;

  virtual BlockStoreCapabilities capabilities() const = 0;

  /// Once, before any volume's. What it starts here it may need for all of them.
  virtual void open(VolumeContext& context, Callback<void> done) {
    answer<void>(context.loop, std::move(done), {});
  }
  /// As BlockStore::limit_copies(); of those that it makes itself.
  virtual void limit_copies(Mib) {}

  virtual std::unique_ptr<VolumeAccess> volume(VolumeContext& context, VolumeFolder folder,
                                               const VolumeId& volume) = 0;

  /// As BlockStore::space(): of the file system of its directory, unless its media are elsewhere.
  virtual RealSpace space(const std::string& directory) const;
};

}  // namespace virga
