#include "driver/iscsi/iscsi_access.h"

#include <utility>

#include "edge/tls.h"

namespace virga {
namespace {

constexpr const char* kNames = "iqn.2026-01.virga:";
constexpr std::size_t kKeyLength = 32;  // some initiators take no longer ones

}  // namespace

IscsiAccess::IscsiAccess(TargetDaemon& daemon, const IscsiOptions& options, VolumeFolder folder,
                         const VolumeId& volume)
    : VolumeAccess(std::move(folder)),
      daemon_(daemon),
      options_(options),
      prefix_(kNames + export_prefix(volume)),
      serial_(sha256_hex(volume.value).substr(0, 16)),
      ended_(daemon.on_ended([this] {
        served_ = false;
        if (lost_) lost_();
      })) {}

std::vector<Target> IscsiAccess::targets_of(const VolumeRecord& record) const {
  std::vector<Target> targets;
  for (const AttachmentRecord& one : admitted_of(record)) {
    targets.push_back(
        {kNames + one.export_name, one.key.substr(0, kKeyLength), folder_.image(), serial_});
  }
  return targets;
}

void IscsiAccess::serve(const VolumeRecord& record, Callback<void> done) {
  daemon_.serve(prefix_, targets_of(record),
                [this, done = std::move(done), alive = std::weak_ptr(alive_)](Result<void> served) {
                  if (alive.expired()) return;
                  served_ = served.ok();
                  done(std::move(served));
                });
}

void IscsiAccess::cut(const VolumeRecord& record, Callback<void> done) {
  if (admitted_of(record).empty()) served_ = false;
  daemon_.cut(prefix_, targets_of(record),
              [done = std::move(done), alive = std::weak_ptr(alive_)](Result<void> ended) {
                if (!alive.expired()) done(std::move(ended));
              });
}

VolumeEndpoint IscsiAccess::endpoint(const VolumeRecord&,
                                     const AttachmentRecord& attachment) const {
  const std::string target = kNames + attachment.export_name;
  return {"iscsi", options_.address,    options_.port,
          target,  consumer_of(target), attachment.key.substr(0, kKeyLength)};
}

}  // namespace virga
