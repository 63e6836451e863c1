#include "driver/volumes/volume_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/log.h"
#include "driver/volume_rules.h"
#include "edge/file.h"
#include "edge/tls.h"

namespace virga {

namespace fs = std::filesystem;

std::vector<Epoch> epochs_of(const VolumeRecord& record) {
  std::vector<Epoch> epochs;
  for (const AttachmentRecord& one : record.attachments) epochs.push_back(one.epoch);
  return epochs;
}

std::vector<AttachmentRecord> admitted_of(const VolumeRecord& record) {
  std::vector<AttachmentRecord> admitted = record.attachments;
  std::erase_if(admitted, [&](const AttachmentRecord& one) { return one.epoch <= record.revoked; });
  return admitted;
}

/// Dots stand in no name of a tenant or a volume; QEMU wants a letter first.
std::string export_prefix(const VolumeId& volume) {
  std::string name = volume.value;
  std::replace(name.begin(), name.end(), '/', '.');
  return "v." + name + ".";
}

AttachmentRecord new_attachment(const VolumeId& volume, const Epoch& epoch) {
  return {epoch,
          fmt::format("{}{}.{}", export_prefix(volume), to_string(epoch),
                      random_secret().substr(0, 32)),
          "e" + to_string(epoch), random_secret()};
}

Result<VolumeFolder> folder_of(const std::string& device, const VolumeId& volume) {
  if (auto fine = check_volume_id(volume); !fine) return fine.error();
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
  return rewrite_file(folder.record(), to_json_text(record), 0600, true);
}

std::vector<VolumeRecord> read_records(const std::string& device) {
  std::vector<VolumeRecord> records;
  std::error_code failed;
  for (const auto& tenant : fs::directory_iterator(device, failed)) {
    if (!check_name("tenant", tenant.path().filename().string())) continue;
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
