#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "base/result.h"
#include "base/units.h"
#include "driver/block_store.h"
#include "model/meta.h"

namespace virga {

struct AttachmentRecord {
  Epoch epoch;
  std::string export_name;
  std::string user;
  std::string key;
};
BOOST_DESCRIBE_STRUCT(AttachmentRecord, (), (epoch, export_name, user, key))

/// What is true of a volume whatever happens to processes: written, with fsync, before anybody relies on it.
struct VolumeRecord {
  VolumeId volume;
  Mib size_mib;
  Epoch revoked;
  Epoch floor;    ///< what was revoked when it was made: with the name it says which volume this is
  Epoch highest;  ///< that was ever attached; none below it is let in anew
  std::vector<AttachmentRecord> attachments;  ///< in order of epoch
  int port = 0;  ///< of a server of its own; kept, so that consumers find it again
  VolumeId source{};  ///< not whole yet: what it is copied from
  std::optional<WallTime> taken_at{};  ///< of a copy: the moment of its source that it holds
  std::optional<ImageDisk> image{};    ///< not whole yet: what it is filled from

  bool whole() const { return source.empty() && !image; }
};
BOOST_DESCRIBE_STRUCT(VolumeRecord, (),
                      (volume, size_mib, revoked, floor, highest, attachments, port, source,
                       taken_at, image))

std::vector<Epoch> epochs_of(const VolumeRecord& record);

/// Those that may be served: not revoked. (A store that cannot cut keeps revoked ones until it knows of their end.)
std::vector<AttachmentRecord> admitted_of(const VolumeRecord& record);

/// A new attachment with secrets of its own; its names hold no character that means something to QEMU, tgt or Ceph.
AttachmentRecord new_attachment(const VolumeId& volume, const Epoch& epoch);

/// "acme.data-": what begins the export names of all attachments of this volume and of no other.
std::string export_prefix(const VolumeId& volume);

/// Paths of one volume below the device's folder.
struct VolumeFolder {
  std::string path;
  std::string image() const { return path + "/volume.raw"; }
  std::string record() const { return path + "/volume.json"; }
};

/// Errors: invalid (a name that is no tenant/name).
Result<VolumeFolder> folder_of(const std::string& device, const VolumeId& volume);

/// Errors: not_found, invalid (damaged).
Result<VolumeRecord> read_record(const VolumeFolder& folder);
Result<void> write_record(const VolumeFolder& folder, const VolumeRecord& record);

/// All volumes of a device, those whose record cannot be read left out and named in the log.
std::vector<VolumeRecord> read_records(const std::string& device);

}  // namespace virga
