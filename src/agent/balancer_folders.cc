#include "agent/balancer_folders.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/log.h"
#include "base/reflect.h"
#include "edge/file.h"

namespace virga {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kRecordBytesMax = 4096;

struct LegRecord {
  ServiceId service;
  BalancerLeg leg;
};
BOOST_DESCRIBE_STRUCT(LegRecord, (), (service, leg))

/// "tenant/name" of plain names: anything else could lead out of the folder.
Result<void> check_service(const ServiceId& service) {
  const std::size_t slash = service.value.find('/');
  if (slash == std::string::npos) {
    return make_error(Errc::invalid, "service: \"" + service.value + "\" is not TENANT/NAME");
  }
  auto fine = check_name("service, its tenant", service.value.substr(0, slash));
  return fine ? check_name("service, its name", service.value.substr(slash + 1)) : fine;
}

Result<LegRecord> read_record(const std::string& folder) {
  const auto text = read_file(folder + "/leg.json", kRecordBytesMax);
  if (!text) return text.error();
  auto record = from_json_text<LegRecord>(*text, UnknownFields::ignore);
  if (!record) return record.error();
  if (auto fine = check_service(record->service); !fine) return fine.error();
  return record;
}

Result<void> remove_folder(const std::string& folder) {
  std::error_code failed;
  fs::remove_all(folder, failed);
  return failed ? errno_error("remove " + folder, failed.value()) : Result<void>();
}

}  // namespace

std::string BalancerFolders::folder(const ServiceId& service) const {
  std::string name = service.value;
  std::replace(name.begin(), name.end(), '/', '.');
  return directory_ + "/" + name;
}

std::unique_ptr<LoadBalancer> BalancerFolders::make(const ServiceId& service,
                                                    const std::string& network_namespace) {
  return make_(folder(service) + "/driver", network_namespace);
}

std::map<ServiceId, BalancerLeg> BalancerFolders::remembered() {
  std::map<ServiceId, BalancerLeg> found;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(directory_, failed)) {
    const std::string path = entry.path().string();
    const auto record = read_record(path);
    if (record && folder(record->service) == path) {
      found[record->service] = record->leg;
      continue;
    }
    const std::string why = record ? "the leg of another one" : record.error().text();
    log_line(LogLevel::warning, "agent", "balancer in " + path + ": " + why);
    const bool damaged =
        record || record.error().code == Errc::not_found || record.error().code == Errc::invalid;
    if (auto removed = damaged ? remove_folder(path) : Result<void>(); !removed) {
      log_line(LogLevel::warning, "agent", removed.error().text());
    }
  }
  return found;
}

Result<void> BalancerFolders::remember(const ServiceId& service, const BalancerLeg& leg) {
  if (auto fine = check_service(service); !fine) return fine;
  const std::string path = folder(service);
  if (auto made = make_folders(path, 0700); !made) return made;
  return replace_file(path + "/leg.json", to_json_text(LegRecord{service, leg}), 0600);
}

Result<void> BalancerFolders::forget(const ServiceId& service) {
  if (auto fine = check_service(service); !fine) return fine;
  return remove_folder(folder(service));
}

}  // namespace virga
