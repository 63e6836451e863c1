#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "base/result.h"
#include "base/units.h"
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
  Epoch highest;  ///< that was ever attached; none below it is let in anew
  std::vector<AttachmentRecord> attachments;  ///< in order of epoch
  int port = 0;                               ///< of its server; kept, so that consumers find it again
};
BOOST_DESCRIBE_STRUCT(VolumeRecord, (), (volume, size_mib, revoked, highest, attachments, port))

/// The process that serves a volume; of one boot of this machine, lost with it.
struct ServerRecord {
  std::string boot_id;
  std::int64_t pid = 0;
  std::uint64_t start_ticks = 0;
};
BOOST_DESCRIBE_STRUCT(ServerRecord, (), (boot_id, pid, start_ticks))

/// Paths of one volume below the device's folder.
struct VolumeFolder {
  std::string path;
  std::string image() const { return path + "/volume.raw"; }
  std::string record() const { return path + "/volume.json"; }
  std::string server() const { return path + "/server.json"; }
  std::string keys() const { return path + "/keys"; }
  std::string qmp() const { return path + "/qmp"; }
  std::string log() const { return path + "/server.log"; }
};

/// Errors: invalid (a name that is no tenant/name).
Result<VolumeFolder> folder_of(const std::string& device, const VolumeId& volume);

/// Errors: not_found, invalid (damaged).
Result<VolumeRecord> read_record(const VolumeFolder& folder);
Result<void> write_record(const VolumeFolder& folder, const VolumeRecord& record);

/// One line an attachment, as the TLS library reads it. Replaced as a whole.
Result<void> write_keys(const VolumeFolder& folder, const VolumeRecord& record);

/// All volumes of a device, those whose record cannot be read left out and named in the log.
std::vector<VolumeRecord> read_records(const std::string& device);

}  // namespace virga
