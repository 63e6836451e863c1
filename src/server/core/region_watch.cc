#include "server/core/region_watch.h"

#include <algorithm>

#include "model/keys.h"

namespace virga {
namespace {

constexpr Duration kLookEvery = seconds(1);

}  // namespace

void RegionWatch::changed(const std::vector<Change>& changes) {
  open_ = open_ || std::ranges::any_of(changes, [](const Change& one) {
            const std::string_view key = one.entry.key;
            return key.starts_with(keys::kVm) || key.starts_with(keys::kVolume) ||
                   key.starts_with(keys::kTenant) || key.starts_with(keys::kHost) ||
                   key.starts_with(keys::kDevice);
          });
}

void RegionWatch::tick(Instant now) {
  if (!open_ || now < due_) return;
  open_ = false;
  due_ = now + kLookEvery;
  decltype(known_) seen;
  for (Misplaced& one : misplaced(view_)) seen.emplace(one.key(), std::move(one));
  for (const auto& [key, one] : known_) {
    if (!seen.contains(key)) tell(one, false);
  }
  for (const auto& [key, one] : seen) {
    if (!known_.contains(key)) tell(one, true);
  }
  known_ = std::move(seen);
}

void RegionWatch::tell(const Misplaced& one, bool begins) {
  Event event;
  event.severity = begins ? Severity::alarm : Severity::info;
  event.kind = begins ? "perimeter.region_left" : "perimeter.region_kept";
  event.subject = one.subject;
  event.tenant = one.tenant;
  event.text = begins ? one.subject + " is on " + one.place + ", which " + one.reason
                      : one.subject + " is not where it may not be any more: " + one.place;
  event.facts["place"] = one.place;
  tell_(std::move(event));
}

}  // namespace virga
