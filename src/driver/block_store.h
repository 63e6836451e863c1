#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/loop.h"
#include "base/result.h"
#include "model/launch.h"
#include "model/observed_volume.h"

namespace virga {

/// What implementations differ in. Constant for the life of a store.
struct BlockStoreCapabilities {
  std::string protocol;         ///< of its endpoints
  bool revokes = false;         ///< cuts consumers off that do not obey
  bool grows_attached = false;  ///< grow() while consumers are attached
  bool copies = false;          ///< copy()
  bool images = false;          ///< create_from_image()
};
BOOST_DESCRIBE_STRUCT(BlockStoreCapabilities, (),
                      (protocol, revokes, grows_attached, copies, images))

/// The disk of an image, that a volume can begin with.
struct ImageDisk {
  std::string path;    ///< absolute; in a command below the cluster's shared directory
  std::string format;  ///< "qcow2" or "raw"
  LaunchImage digest;  ///< what it must be

  friend bool operator==(const ImageDisk&, const ImageDisk&) = default;
};
BOOST_DESCRIBE_STRUCT(ImageDisk, (), (path, format, digest))

/// The volumes of one storage device. Implementations: NbdStore, DirectoryStore, IscsiStore; one contract suite runs on
/// all.
///
/// Every call is idempotent: repeated, it succeeds without a second effect. An attachment is named by (volume, epoch);
/// an epoch that was revoked is refused for ever, also after a restart: what was refused once is on disk before it is
/// answered, and no device is too full for it. All calls and completions happen on the Loop; every completion comes
/// within its stated deadline.
class BlockStore {
 public:
  virtual ~BlockStore() = default;

  virtual BlockStoreCapabilities capabilities() const = 0;

  /// Finds what the device holds and goes on serving what is attached. Once, first. Deadline 30 s.
  virtual void open(Callback<void> done) = 0;

  /// A volume of zeroes, thin. `revoked`: attachments up to this epoch, of an earlier volume of the name, are refused.
  /// Errors: conflict (it is there with another size), exhausted (it is larger than what is really free; nothing is
  /// left of it), invalid (name, size). Deadline 10 s.
  virtual void create(const VolumeId& volume, Mib size_mib, const Epoch& revoked,
                      Callback<void> done) = 0;

  /// A volume that begins with an image's disk; what it is larger is zeroes. It completes when that is on record;
  /// filling goes on from then on, also after a restart, and begins anew when what fills it ends in between. observe()
  /// says when it is whole, or why it does not become so: a file that is not there, or not what it must be, is not read
  /// and looked for again. Until then it is neither attached nor grown. `revoked`, errors: as create(); unsupported
  /// (without `images`). Deadline 10 s.
  virtual void create_from_image(const VolumeId& volume, Mib size_mib, const ImageDisk& image,
                                 const Epoch& revoked, Callback<void> done) = 0;

  /// A volume of its own, as large as `source` of this device and with what that holds at one moment after the call,
  /// which its consumers do not notice but by the load. It completes when the copy is on record; copying goes on from
  /// then on, also after a restart, and begins anew, with a later moment, when the server of `source` ends in between:
  /// nothing that cuts consumers off waits for it. observe() says when it is whole; until then it is neither attached
  /// nor grown, and `source` is not erased. `revoked`: as create(). A sparse source has a sparse copy, which until it
  /// is whole may take its full size. Errors: not_found (the source), unavailable (it is not whole itself), conflict
  /// (another volume of the name is there), exhausted, unsupported (without `copies`). Deadline 10 s.
  virtual void copy(const VolumeId& volume, const VolumeId& source, const Epoch& revoked,
                    Callback<void> done) = 0;

  /// Makes it larger, also while consumers use it: they are cut off for a moment and find it again at the same place.
  /// Errors: not_found, invalid (smaller), exhausted (as create(); it is as it was), conflict (is attached, without
  /// `grows_attached`). Deadline 10 s.
  virtual void grow(const VolumeId& volume, Mib size_mib, Callback<void> done) = 0;

  /// Errors: conflict (is attached, or is being copied). One that is not there counts as erased. Deadline 10 s.
  virtual void erase(const VolumeId& volume, Callback<void> done) = 0;

  /// Lets one consumer in. `beside`: the attachment that a live move leaves; any other one refuses this call.
  /// Errors: not_found, fenced (revoked, or older than what is attached), conflict (attached otherwise: revoke that
  /// first), unavailable. Deadline 10 s.
  virtual void attach(const VolumeId& volume, const Epoch& epoch, const Epoch& beside,
                      Callback<VolumeEndpoint> done) = 0;

  /// Ends all attachments up to `epoch`. When it succeeds none of them can write any more: what they had open is cut,
  /// their key opens nothing. Success is proof, in every store. One without `revokes` gives it only when it sees that
  /// nobody has the volume open; one that cuts consumers it has to find first, only when it has found and cut them;
  /// they answer unavailable else: no new consumer gets in from then on, and those attachments are observed still.
  /// A server that does not obey is killed. Errors: not_found, unavailable. Deadline 10 s.
  virtual void revoke(const VolumeId& volume, const Epoch& epoch, Callback<void> done) = 0;

  /// Ends this one attachment and leaves the older ones: what the destination of a live move had that was given up. As
  /// release(): its consumer has never run. The epoch is refused from then on. One that is not there counts as ended.
  virtual void detach(const VolumeId& volume, const Epoch& epoch, Callback<void> done) = 0;

  /// As revoke(), when the caller knows that the consumers up to `epoch` have ended (their agent says so, their host is
  /// off): the store proves nothing and takes the caller's word. Errors: not_found. Deadline 10 s.
  virtual void release(const VolumeId& volume, const Epoch& epoch, Callback<void> done) {
    revoke(volume, epoch, std::move(done));
  }

  /// How much of a copy, or of an image's disk, is written each second at most; of what begins after the call. Without
  /// it 100 MiB.
  virtual void limit_copies(Mib per_second) = 0;

  /// In order of id. Cheap but for one look at each file.
  virtual std::vector<ObservedVolume> observe() const = 0;

  /// What really is there and free, whatever was promised; a store that cannot tell gives no size. As cheap.
  virtual RealSpace space() const { return {}; }
};

}  // namespace virga
