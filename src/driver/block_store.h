#pragma once

#include <vector>

#include "base/loop.h"
#include "base/result.h"
#include "model/launch.h"
#include "model/observed_volume.h"

namespace virga {

/// The volumes of one storage device. Implementations: NbdStore; one contract suite runs on all.
///
/// Every call is idempotent: repeated, it succeeds without a second effect. An attachment is named by (volume, epoch);
/// an epoch that was revoked is refused for ever, also after a restart: what was refused once is on disk before it is
/// answered. All calls and completions happen on the Loop; every completion comes within its stated deadline.
class BlockStore {
 public:
  virtual ~BlockStore() = default;

  /// Finds what the device holds and goes on serving what is attached. Once, first. Deadline 30 s.
  virtual void open(Callback<void> done) = 0;

  /// A volume of zeroes, thin. `revoked`: attachments up to this epoch, of an earlier volume of the name, are refused.
  /// Errors: conflict (it is there with another size), exhausted, invalid (name, size). Deadline 10 s.
  virtual void create(const VolumeId& volume, Mib size_mib, const Epoch& revoked,
                      Callback<void> done) = 0;

  /// Makes it larger, also while consumers use it: they are cut off for a moment and find it again at the same place.
  /// Errors: not_found, invalid (smaller), exhausted. Deadline 10 s.
  virtual void grow(const VolumeId& volume, Mib size_mib, Callback<void> done) = 0;

  /// Errors: conflict (is attached). One that is not there counts as erased. Deadline 10 s.
  virtual void erase(const VolumeId& volume, Callback<void> done) = 0;

  /// Lets one consumer in. `beside`: the attachment that a live move leaves; any other one refuses this call.
  /// Errors: not_found, fenced (revoked, or older than what is attached), conflict (attached otherwise: revoke that
  /// first), unavailable. Deadline 10 s.
  virtual void attach(const VolumeId& volume, const Epoch& epoch, const Epoch& beside,
                      Callback<VolumeEndpoint> done) = 0;

  /// Ends all attachments up to `epoch`. When it completes none of them can write any more: what they had open is cut,
  /// their key opens nothing. A server that does not obey is killed. Errors: not_found. Deadline 10 s.
  virtual void revoke(const VolumeId& volume, const Epoch& epoch, Callback<void> done) = 0;

  /// Ends this one attachment and leaves the older ones: what the destination of a live move had that did not end
  /// there. Otherwise as revoke(); the epoch is refused from then on. One that is not there counts as ended.
  virtual void detach(const VolumeId& volume, const Epoch& epoch, Callback<void> done) = 0;

  /// In order of id. Cheap but for one look at each file.
  virtual std::vector<ObservedVolume> observe() const = 0;
};

}  // namespace virga
