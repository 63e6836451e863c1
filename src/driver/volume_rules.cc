#include "driver/volume_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace virga {
namespace {

constexpr std::int64_t kSizeMibMax = 64LL << 20;  // 64 TiB

}  // namespace

Result<void> check_volume_id(const VolumeId& volume) {
  const std::size_t slash = volume.value.find('/');
  if (slash == std::string::npos) {
    return make_error(Errc::invalid, "volume \"" + volume.value + "\" is no TENANT/NAME");
  }
  if (auto fine = check_name("tenant", volume.value.substr(0, slash)); !fine) return fine;
  return check_name("volume", volume.value.substr(slash + 1));
}

Result<void> check_volume_size(Mib size_mib) {
  if (size_mib.value >= 1 && size_mib.value <= kSizeMibMax) return {};
  return make_error(Errc::invalid, fmt::format("size_mib: {} is out of range: 1 to {} MiB",
                                               size_mib.value, kSizeMibMax));
}

Result<void> check_growth(const VolumeId& volume, Mib has, Mib wanted) {
  if (wanted >= has) return {};
  return make_error(Errc::invalid, fmt::format("size_mib: {} is less than the {} MiB of {}",
                                               wanted.value, has.value, volume.value));
}

Result<Admission> admit(const VolumeId& volume, const AttachmentState& state, const Epoch& epoch,
                        const Epoch& beside) {
  const std::string what = fmt::format("attach {} with epoch {}", volume.value, to_string(epoch));
  const std::vector<Epoch>& attached = state.attached;
  if (epoch <= state.revoked) {
    return make_error(Errc::fenced,
                      fmt::format("{}: all up to {} are revoked", what, to_string(state.revoked)));
  }
  if (std::find(attached.begin(), attached.end(), epoch) != attached.end()) {
    return Admission::attached;
  }
  if (epoch <= state.highest) {
    return make_error(Errc::fenced, fmt::format("{}: epoch {} was attached before", what,
                                                to_string(state.highest)));
  }
  for (const Epoch& other : attached) {
    if (other == beside) continue;
    return make_error(Errc::conflict, fmt::format("{}: epoch {} is attached; revoke it first", what,
                                                  to_string(other)));
  }
  return Admission::admitted;
}

}  // namespace virga
