#pragma once

#include <string>
#include <vector>

#include "driver/volumes/volume_record.h"

namespace virga {

/// What a server over NBD has in its volume's folder.
struct NbdFiles : VolumeFolder {
  std::string server() const { return path + "/server.json"; }
  std::string keys() const { return path + "/keys"; }
  std::string qmp() const { return path + "/qmp"; }
  std::string log() const { return path + "/server.log"; }

  /// The folder of keys, with nobody's when it is not there. QEMU wants it when it starts.
  Result<void> make_keys() const;

  /// One line an attachment, as the TLS library reads it. Replaced as a whole. Blocking.
  Result<void> write_keys(const std::vector<AttachmentRecord>& admitted) const;
};

}  // namespace virga
