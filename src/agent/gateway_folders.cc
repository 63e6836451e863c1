#include "agent/gateway_folders.h"

#include <filesystem>
#include <utility>

#include "base/log.h"
#include "base/reflect.h"
#include "edge/file.h"

namespace virga {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kRecordBytesMax = 4096;

Result<GatewayNetwork> read_record(const std::string& folder) {
  const auto text = read_file(folder + "/gateway.json", kRecordBytesMax);
  if (!text) return text.error();
  return from_json_text<GatewayNetwork>(*text, UnknownFields::ignore);
}

Result<void> remove_folder(const std::string& folder) {
  std::error_code failed;
  fs::remove_all(folder, failed);
  return failed ? errno_error("remove " + folder, failed.value()) : Result<void>();
}

}  // namespace

std::string GatewayFolders::folder(std::uint32_t vni) const {
  return directory_ + "/" + std::to_string(vni);
}

std::unique_ptr<GatewayServer> GatewayFolders::make(std::uint32_t vni,
                                                    const std::string& network_namespace) {
  return make_(folder(vni) + "/driver", network_namespace);
}

std::map<std::uint32_t, GatewayNetwork> GatewayFolders::remembered() {
  std::map<std::uint32_t, GatewayNetwork> found;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(directory_, failed)) {
    const std::string path = entry.path().string();
    const auto record = read_record(path);
    if (record && folder(record->vni) == path) {
      found[record->vni] = *record;
      continue;
    }
    log_line(LogLevel::warning, "agent",
             "gateway in " + path + ": " + (record ? "another one's" : record.error().text()));
    if (auto removed = remove_folder(path); !removed)
      log_line(LogLevel::warning, "agent", removed.error().text());
  }
  return found;
}

Result<void> GatewayFolders::remember(const GatewayNetwork& network) {
  const std::string path = folder(network.vni);
  if (auto made = make_folders(path); !made) return made;
  return replace_file(path + "/gateway.json", to_json_text(network));
}

/// The last one takes what is empty above it with it, up to /run/virga.
Result<void> GatewayFolders::forget(std::uint32_t vni) {
  constexpr int kLevels = 3;
  if (auto removed = remove_folder(folder(vni)); !removed) return removed;
  fs::path above = directory_;
  std::error_code used;
  for (int level = 0; level < kLevels && fs::remove(above, used); ++level) {
    above = above.parent_path();
  }
  return {};
}

}  // namespace virga
