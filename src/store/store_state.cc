#include "store/store_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace virga {
namespace {

/// A page ends early when its values reach this, so that large values make no large page.
constexpr std::size_t kPageBytesMax = 8 << 20;

Result<void> check_key(const std::string& key) {
  if (!key.empty() && key.size() <= StoreLimits::kKeyBytesMax) return {};
  return make_error(Errc::invalid,
                    fmt::format("commit: key \"{}\" has {} bytes; a key has 1 to {}",
                                key.substr(0, 80), key.size(), StoreLimits::kKeyBytesMax));
}

template <typename Item>
Result<void> check_keys(const std::vector<Item>& items, std::string_view what) {
  std::set<std::string_view> seen;
  for (const Item& item : items) {
    if (auto valid = check_key(item.key); !valid) return valid;
    if (seen.insert(item.key).second) continue;
    return make_error(Errc::invalid, fmt::format("commit: key \"{}\" is {} twice", item.key, what));
  }
  return {};
}

bool starts_with(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

std::size_t bytes_of(const StoreState::Entry& entry) {
  return entry == nullptr ? 0 : entry->key.size() + entry->value.size();
}

std::size_t bytes_of(const StoreState::ChangeRecord& change) {
  return bytes_of(change.before) + bytes_of(change.after);
}

template <typename Map>
typename Map::const_iterator first_of(const Map& entries, const ListRequest& request) {
  if (request.after.empty() || request.after < request.prefix) {
    return entries.lower_bound(request.prefix);
  }
  return entries.upper_bound(request.after);
}

}  // namespace

Result<void> check_commit(const std::vector<Guard>& guards, const std::vector<Write>& writes) {
  const std::size_t items = guards.size() + writes.size();
  if (items > StoreLimits::kItemsMax) {
    return make_error(Errc::invalid,
                      fmt::format("commit: {} guards and writes; at most {} in one commit", items,
                                  StoreLimits::kItemsMax));
  }
  if (auto valid = check_keys(guards, "guarded"); !valid) return valid;
  if (auto valid = check_keys(writes, "written"); !valid) return valid;
  for (const Write& write : writes) {
    if (!write.value || write.value->size() <= StoreLimits::kValueBytesMax) continue;
    return make_error(Errc::invalid,
                      fmt::format("commit: the value of key \"{}\" has {} bytes; at most {}",
                                  write.key, write.value->size(), StoreLimits::kValueBytesMax));
  }
  return {};
}

const std::string& key_of(const StoreState::ChangeRecord& change) {
  return change.after != nullptr ? change.after->key : change.before->key;
}

StoreState::Entry StoreState::find(const std::string& key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() ? nullptr : found->second;
}

bool StoreState::holds(const std::vector<Guard>& guards) const {
  return std::all_of(guards.begin(), guards.end(), [this](const Guard& guard) {
    const Entry entry = find(guard.key);
    return guard.modified == (entry == nullptr ? 0 : entry->modified);
  });
}

Result<Page> StoreState::list(const ListRequest& request) const {
  const Revision at = request.revision == 0 ? revision_ : request.revision;
  const Revision oldest = std::max(compacted_, listable_from_);
  if (at > revision_ || at < oldest) {
    return make_error(
        Errc::invalid,
        fmt::format("list \"{}\" at revision {}: {}; revisions {} to {} can be read",
                    request.prefix, at, at > revision_ ? "in the future" : "compacted", oldest,
                    revision_));
  }
  const EntryMap past = past_entries(at, request);
  const std::size_t limit = std::clamp<std::size_t>(request.limit, 1, StoreLimits::kPageMax);
  Page page;
  page.revision = at;
  std::size_t bytes = 0;
  auto now = first_of(entries_, request);
  auto then = past.begin();
  while (true) {
    const bool has_now = now != entries_.end() && starts_with(now->first, request.prefix);
    if (!has_now && then == past.end()) return page;
    const bool from_past = then != past.end() && (!has_now || then->first <= now->first);
    const Entry& entry = from_past ? then->second : now->second;
    if (entry != nullptr) {
      if (page.entries.size() == limit || bytes > kPageBytesMax) break;
      bytes += bytes_of(entry);
      page.entries.push_back(*entry);
    }
    if (has_now && (!from_past || then->first == now->first)) ++now;
    if (from_past) ++then;
  }
  page.more = true;
  return page;
}

/// What keys of the list that changed after `at` were at that revision; null = they did not exist.
StoreState::EntryMap StoreState::past_entries(Revision at, const ListRequest& request) const {
  EntryMap past;
  for (Revision revision = at + 1; revision <= revision_; ++revision) {
    for (const ChangeRecord& change : record(revision).changes) {
      const std::string& key = key_of(change);
      if (!starts_with(key, request.prefix)) continue;
      if (!request.after.empty() && key <= request.after) continue;
      past.emplace(key, change.before);
    }
  }
  return past;
}

Revision StoreState::apply(std::vector<Write> writes) {
  CommitRecord record;
  record.revision = revision_ + 1;
  for (Write& write : writes) {
    if (!apply_one(std::move(write), record.revision, record)) continue;
    history_bytes_ += bytes_of(record.changes.back());
  }
  if (record.changes.empty()) return revision_;
  history_changes_ += record.changes.size();
  revision_ = record.revision;
  history_.push_back(std::move(record));
  return revision_;
}

bool StoreState::apply_one(Write write, Revision revision, CommitRecord& record) {
  auto found = entries_.find(write.key);
  ChangeRecord change;
  if (found != entries_.end()) change.before = found->second;
  if (change.before == nullptr && !write.value) return false;
  if (change.before != nullptr && change.before->lease != 0) {
    const auto keys = keys_by_lease_.find(change.before->lease);
    keys->second.erase(write.key);
    if (keys->second.empty()) keys_by_lease_.erase(keys);
  }
  if (!write.value) {
    entries_.erase(found);
  } else {
    auto entry = std::make_shared<KeyValue>();
    entry->key = std::move(write.key);
    entry->value = std::move(*write.value);
    entry->created = change.before == nullptr ? revision : change.before->created;
    entry->modified = revision;
    entry->lease = write.lease;
    if (entry->lease != 0) keys_by_lease_[entry->lease].insert(entry->key);
    change.after = entry;
    if (found != entries_.end()) {
      found->second = std::move(entry);
    } else {
      entries_.emplace(change.after->key, std::move(entry));
    }
  }
  record.changes.push_back(std::move(change));
  return true;
}

std::vector<Write> StoreState::removals_of(StoreLeaseId lease) const {
  std::vector<Write> removals;
  const auto keys = keys_by_lease_.find(lease);
  if (keys == keys_by_lease_.end()) return removals;
  for (const std::string& key : keys->second) removals.push_back({key, std::nullopt, 0});
  return removals;
}

Result<void> StoreState::compact(Revision revision) {
  if (revision > revision_ + 1) {
    return make_error(Errc::invalid, fmt::format("compact before revision {}: the newest is {}",
                                                 revision, revision_));
  }
  while (!history_.empty() && history_.front().revision < revision) forget_oldest();
  if (revision > 0) compacted_ = std::max(compacted_, revision - 1);
  return {};
}

void StoreState::trim() {
  while (history_changes_ > bounds_.changes_max || history_bytes_ > bounds_.bytes_max)
    forget_oldest();
}

void StoreState::forget_oldest() {
  const CommitRecord& oldest = history_.front();
  for (const ChangeRecord& change : oldest.changes) history_bytes_ -= bytes_of(change);
  history_changes_ -= oldest.changes.size();
  compacted_ = oldest.revision;
  history_.pop_front();
}

const StoreState::CommitRecord& StoreState::record(Revision revision) const {
  VIRGA_CHECK(revision > compacted_ && revision <= revision_);
  return history_[revision - history_.front().revision];
}

void StoreState::load_entry(KeyValue entry) {
  if (entry.lease != 0) keys_by_lease_[entry.lease].insert(entry.key);
  auto shared = std::make_shared<const KeyValue>(std::move(entry));
  entries_.emplace_hint(entries_.end(), shared->key, shared);
}

void StoreState::load_record(CommitRecord record) {
  for (const ChangeRecord& change : record.changes) history_bytes_ += bytes_of(change);
  history_changes_ += record.changes.size();
  history_.push_back(std::move(record));
}

void StoreState::finish_load(Revision revision, Revision compacted) {
  VIRGA_CHECK(history_.size() == revision - compacted);
  revision_ = revision;
  compacted_ = compacted;
  listable_from_ = revision;
}

}  // namespace virga
