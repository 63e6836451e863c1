#include "server/core/host_calendar.h"

#include <fmt/format.h>

#include "mechanism/calendar/windows.h"
#include "model/event.h"
#include "model/keys.h"

namespace virga {

void HostCalendar::start() {
  queue_.start([this](const std::string& name) { run(name); });
}

void HostCalendar::tick() {
  if (loop_.now() < due_) return;
  due_ = loop_.now() + kEvery;
  const WallTime now = loop_.wall_now();
  for (const auto& [id, host] : mirror_.view().hosts.all()) {
    if (is_open(host->spec.windows, now) != host->status.window_open) queue_.mark(id.value);
  }
}

void HostCalendar::run(const std::string& name) {
  queue_.commit(name, [&](Transaction& transaction) {
    const Host* stored = mirror_.view().hosts.find(HostId(name));
    if (stored == nullptr) return false;
    const bool open = is_open(stored->spec.windows, loop_.wall_now());
    if (open == stored->status.window_open) return false;
    Host changed = *stored;
    HostStatus& status = changed.status;
    const bool begins = open && !stored->spec.maintenance;
    const bool ends = !open && status.window_maintenance && stored->spec.maintenance;
    status.window_open = open;
    status.window_maintenance = begins;
    if (begins || ends) {
      changed.spec.maintenance = open;
      ++changed.meta.generation;
    }
    transaction.put(changed);
    Event event;
    event.at = loop_.wall_now();
    event.kind = open ? "host.window_opened" : "host.window_closed";
    event.subject = keys::of(changed.id());
    event.text =
        fmt::format("a maintenance window of {} {}: {}", name, open ? "is open" : "is over",
                    begins ? "it shall be evacuated"
                    : ends ? "it may take VMs again"
                    : open ? "it was in maintenance before, and stays so"
                           : "an operator has decided meanwhile, and that stays so");
    transaction.event(names_.outbox_key(mirror_.view().revision), event);
    return true;
  });
}

}  // namespace virga
