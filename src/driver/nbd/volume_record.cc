#include "driver/nbd/volume_record.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/log.h"
#include "edge/file.h"
#include "edge/tls.h"

namespace virga {

namespace fs = std::filesystem;

Result<VolumeFolder> folder_of(const std::string& device, const VolumeId& volume) {
  const std::size_t slash = volume.value.find('/');
  if (slash == std::string::npos) {
    return make_error(Errc::invalid, "volume \"" + volume.value + "\" is no TENANT/NAME");
  }
  if (auto fine = check_name("tenant", volume.value.substr(0, slash)); !fine) return fine.error();
  if (auto fine = check_name("volume", volume.value.substr(slash + 1)); !fine) return fine.error();
  return VolumeFolder{device + "/" + volume.value};
}

Result<VolumeRecord> read_record(const VolumeFolder& folder) {
  const auto text = read_file(folder.record());
  if (!text) return text.error();
  auto record = from_json_text<VolumeRecord>(*text, UnknownFields::ignore);
  if (!record) return wrap_error("read " + folder.record(), record.error());
  return record;
}

Result<void> write_record(const VolumeFolder& folder, const VolumeRecord& record) {
  return write_file_atomically(folder.record(), to_json_text(record), 0600);
}

Result<void> write_keys(const VolumeFolder& folder, const VolumeRecord& record) {
  if (auto made = make_folders(folder.keys(), 0700); !made) return made;
  const std::string group = folder.keys() + "/dh-params.pem";
  if (::access(group.c_str(), F_OK) != 0) {
    if (auto made = replace_file(group, dh_parameters_pem(), 0600); !made) return made;
  }
  std::string lines;
  for (const AttachmentRecord& one : record.attachments) lines += one.user + ":" + one.key + "\n";
  return replace_file(folder.keys() + "/keys.psk", lines, 0600);
}

std::vector<VolumeRecord> read_records(const std::string& device) {
  std::vector<VolumeRecord> records;
  std::error_code failed;
  for (const auto& tenant : fs::directory_iterator(device, failed)) {
    for (const auto& volume : fs::directory_iterator(tenant.path(), failed)) {
      auto record = read_record({volume.path().string()});
      if (record) {
        records.push_back(std::move(*record));
      } else if (record.error().code != Errc::not_found) {
        log_line(LogLevel::error, "volume", record.error().text());
      }
    }
  }
  std::sort(records.begin(), records.end(),
            [](const VolumeRecord& left, const VolumeRecord& right) {
              return left.volume < right.volume;
            });
  return records;
}

}  // namespace virga
