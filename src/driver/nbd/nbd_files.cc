#include "driver/nbd/nbd_files.h"

#include <unistd.h>

#include "edge/file.h"
#include "edge/tls.h"

namespace virga {

Result<void> NbdFiles::make_keys() const {
  if (auto made = make_folders(keys(), 0700); !made) return made;
  const std::string group = keys() + "/dh-params.pem";
  if (::access(group.c_str(), F_OK) != 0) {
    if (auto made = replace_file(group, dh_parameters_pem(), 0600); !made) return made;
  }
  const std::string lines = keys() + "/keys.psk";
  if (::access(lines.c_str(), F_OK) == 0) return {};
  return replace_file(lines, "", 0600);
}

Result<void> NbdFiles::write_keys(const std::vector<AttachmentRecord>& admitted) const {
  if (auto made = make_keys(); !made) return made;
  std::string lines;
  for (const AttachmentRecord& one : admitted) lines += one.user + ":" + one.key + "\n";
  return rewrite_file(keys() + "/keys.psk", lines, 0600, false);
}

}  // namespace virga
