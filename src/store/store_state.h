#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "store/store.h"

namespace virga {

/// Refuses a commit that can never be valid: more than StoreLimits allows, an empty key, a key written or guarded
/// twice. Errors: invalid, naming the key and the limit.
Result<void> check_commit(const std::vector<Guard>& guards, const std::vector<Write>& writes);

/// How much of the past is kept for watches and for lists at an older revision, whichever is reached first.
struct HistoryBounds {
  std::size_t changes_max = 10'000;
  std::size_t bytes_max = 64 << 20;  ///< keys and values of the kept changes
};

/// The revisioned keys of a store in memory, with the recent past. The one place where revisions, guards, pages and
/// compaction are defined: MemoryStore is this plus a loop, SqliteStore keeps one as its mirror of the file.
/// Not thread-safe. get O(log keys); list O(page + changes since its revision); apply O(writes log keys).
class StoreState {
 public:
  using Entry = std::shared_ptr<const KeyValue>;

  /// Null before = the key was made; null after = it was removed.
  struct ChangeRecord {
    Entry before;
    Entry after;
  };
  struct CommitRecord {
    Revision revision = 0;
    std::vector<ChangeRecord> changes;
  };

  explicit StoreState(HistoryBounds bounds = {}) : bounds_(bounds) {}

  Revision revision() const { return revision_; }

  /// Commits up to and including this one are forgotten.
  Revision compacted() const { return compacted_; }

  std::size_t size() const { return entries_.size(); }

  /// Null when the key does not exist.
  Entry find(const std::string& key) const;

  bool holds(const std::vector<Guard>& guards) const;

  /// Errors: invalid (a revision that is in the future or compacted).
  Result<Page> list(const ListRequest& request) const;

  /// Makes one commit and returns its revision. A commit that changes nothing (no writes, or only removals of keys
  /// that do not exist) has the current revision and leaves no record. Keeps history until trim().
  Revision apply(std::vector<Write> writes);

  /// Removals of all keys that hang on a lease, in order of keys.
  std::vector<Write> removals_of(StoreLeaseId lease) const;

  /// Forgets commits before `revision`. Errors: invalid (later than the next commit).
  Result<void> compact(Revision revision);

  /// Forgets the oldest commits beyond the bounds.
  void trim();

  /// A kept commit; `revision` must be in (compacted(), revision()].
  const CommitRecord& record(Revision revision) const;

  /// Filling at open, in this order: entries by ascending key, then kept commits without gaps, then the numbers.
  /// Lists older than the loaded revision are refused as compacted, since values from before are not known.
  void load_entry(KeyValue entry);
  void load_record(CommitRecord record);
  void finish_load(Revision revision, Revision compacted);

 private:
  using EntryMap = std::map<std::string, Entry>;

  bool apply_one(Write write, Revision revision, CommitRecord& record);
  EntryMap past_entries(Revision at, const ListRequest& request) const;
  void forget_oldest();

  HistoryBounds bounds_;
  EntryMap entries_;
  std::map<StoreLeaseId, std::set<std::string>> keys_by_lease_;
  std::deque<CommitRecord> history_;  ///< revisions compacted_ + 1 .. revision_
  std::size_t history_changes_ = 0;
  std::size_t history_bytes_ = 0;
  Revision revision_ = 0;
  Revision compacted_ = 0;
  Revision listable_from_ = 0;
};

/// The key that a change is about.
const std::string& key_of(const StoreState::ChangeRecord& change);

}  // namespace virga
