#include "driver/qemu/vm_meter.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/log.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr std::size_t kRecordMax = 64 << 10;
constexpr std::size_t kDevicesMax = 1 << 20;

std::int64_t ms_of(Instant instant) { return to_ms(instant.time_since_epoch()); }

}  // namespace

void VmMeter::begin(const Epoch& epoch, std::vector<std::string> links, Instant now) {
  record_ = Record{epoch, ms_of(now), 0, -1, std::move(links)};
  keep();
}

void VmMeter::adopt(const Epoch& epoch, Instant now) {
  const auto text = read_file(path_, kRecordMax);
  const auto kept =
      text ? from_json_text<Record>(*text, UnknownFields::ignore) : Result<Record>(text.error());
  if (kept.ok() && kept->epoch == epoch) {
    record_ = *kept;
    return;
  }
  begin(epoch, {}, now);
}

void VmMeter::set_running(bool runs, Instant now) {
  if (runs == running()) return;
  record_.ran_ms = to_ms(run_time(now));
  record_.runs_since_ms = runs ? ms_of(now) : -1;
  keep();
}

Duration VmMeter::age(Instant now) const { return milliseconds(ms_of(now) - record_.born_ms); }

Duration VmMeter::run_time(Instant now) const {
  const std::int64_t since = running() ? ms_of(now) - record_.runs_since_ms : 0;
  return milliseconds(record_.ran_ms + std::max<std::int64_t>(since, 0));
}

void VmMeter::keep() const {
  const auto kept = replace_file(path_, to_json_text(record_), 0600);
  if (!kept) log_line(LogLevel::warning, "qemu", kept.error().text());
}

bool add_link(const std::string& text, const std::string& link, VmUsage& usage) {
  const std::string mark = link + ":";
  std::size_t at = text.find(mark);
  while (at != std::string::npos && at > 0 && text[at - 1] != ' ' && text[at - 1] != '\n') {
    at = text.find(mark, at + 1);
  }
  if (at == std::string::npos) return false;
  long long received = 0;
  long long sent = 0;
  if (std::sscanf(text.c_str() + at + mark.size(), "%lld %*d %*d %*d %*d %*d %*d %*d %lld",
                  &received, &sent) != 2) {
    return false;
  }
  usage.net_sent_bytes = std::max<std::int64_t>(usage.net_sent_bytes, 0) + received;
  usage.net_received_bytes = std::max<std::int64_t>(usage.net_received_bytes, 0) + sent;
  return true;
}

void VmMeter::read_links(VmUsage& usage) const {
  if (record_.links.empty()) return;
  const auto text = read_file("/proc/self/net/dev", kDevicesMax);
  if (!text) return;
  for (const std::string& link : record_.links) add_link(*text, link, usage);
}

}  // namespace virga
