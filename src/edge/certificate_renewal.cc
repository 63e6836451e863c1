#include "edge/certificate_renewal.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"

namespace virga {
namespace {

constexpr int kLooks = 24;  // in the life of a certificate
constexpr Duration kLookAtLeast = std::chrono::minutes(10);
constexpr Duration kAhead = std::chrono::hours(1);  // of clocks that agree well enough
constexpr std::int64_t kPartLeft = 3;

Duration between(WallTime from, WallTime to) { return milliseconds(to.unix_ms - from.unix_ms); }

}  // namespace

Result<void> CertificateRenewal::start(const std::string& certificate) {
  const auto life = life_of(certificate);
  if (!life) return life.error();
  life_ = *life;
  look();
  return {};
}

void CertificateRenewal::look() {
  const Duration whole = between(life_.begins, life_.ends);
  const Duration left = between(loop_.wall_now(), life_.ends);
  if (left > whole / kPartLeft && left <= whole + kAhead) return look_later();
  ask_([this, alive = std::weak_ptr(alive_)](const Result<TlsIdentity>& identity) {
    if (alive.expired()) return;
    answered(identity);
    look_later();
  });
}

void CertificateRenewal::look_later() {
  const Duration part = between(life_.begins, life_.ends) / kLooks;
  timer_.set_after(std::clamp<Duration>(part, seconds(1), kLookAtLeast), [this] { look(); });
}

void CertificateRenewal::answered(const Result<TlsIdentity>& identity) {
  const Result<void> taken = identity ? take(*identity) : Result<void>(identity.error());
  if (taken) {
    return log_line(LogLevel::info, "certificate",
                    "renewed; it is good until " + to_string(life_.ends));
  }
  const bool over = loop_.wall_now() >= life_.ends;
  log_line(over ? LogLevel::error : LogLevel::warning, "certificate",
           fmt::format("not renewed, {} {}: {}", over ? "and it has ended" : "it ends",
                       to_string(life_.ends), taken.error().text()));
}

Result<void> CertificateRenewal::take(const TlsIdentity& identity) {
  const auto life = life_of(identity.certificate);
  if (!life) return life.error();
  const WallTime now = loop_.wall_now();
  if (between(now, life->begins) > kAhead || life->ends <= now) {
    return make_error(Errc::invalid,
                      fmt::format("the other one is good from {} to {}, and here it is {}: set the "
                                  "clocks",
                                  to_string(life->begins), to_string(life->ends), to_string(now)));
  }
  if (auto used = use_(identity); !used) return used;
  life_ = *life;
  return {};
}

}  // namespace virga
