#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"

namespace virga {

using Revision = std::uint64_t;      ///< grows by one with every commit; 0 = before the first
using StoreLeaseId = std::uint64_t;  ///< 0 = none

/// Limits held by every store; a commit over them is refused with `invalid` before anything happens.
struct StoreLimits {
  static constexpr std::size_t kItemsMax = 128;            ///< guards + writes in one commit
  static constexpr std::size_t kValueBytesMax = 512 << 10;
  static constexpr std::size_t kKeyBytesMax = 512;
  static constexpr std::size_t kPageMax = 1000;            ///< entries in one page of a list
};

struct KeyValue {
  std::string key;
  std::string value;
  Revision created = 0;   ///< revision of the commit that created the key
  Revision modified = 0;  ///< revision of the last commit that wrote it
  StoreLeaseId lease = 0;
};

/// Holds when the key's last change was at exactly `modified`; 0 = the key does not exist.
struct Guard {
  std::string key;
  Revision modified = 0;
};

/// Sets the key, or removes it when there is no value.
struct Write {
  std::string key;
  std::optional<std::string> value;
  StoreLeaseId lease = 0;  ///< the key goes when the lease ends
};

enum class CommitVerdict {
  committed,  ///< durable; `revision` is its revision
  conflict,   ///< a guard did not hold; nothing happened; `revision` is the current one
  unknown,    ///< may or may not have happened: read again; guards make a retry safe
};

struct CommitOutcome {
  CommitVerdict verdict = CommitVerdict::unknown;
  Revision revision = 0;
};

struct Page {
  std::vector<KeyValue> entries;  ///< in order of keys
  Revision revision = 0;          ///< all pages of one list are read at this one
  bool more = false;              ///< go on with `after` = the last entry's key
};

struct ListRequest {
  std::string prefix;
  std::string after;      ///< keys greater than this; empty = from the first
  Revision revision = 0;  ///< 0 = now; else the first page's
  std::size_t limit = StoreLimits::kPageMax;
};

struct Change {
  KeyValue entry;        ///< for a removal: key and modified
  bool removed = false;
};

/// What a watch delivers, on the Loop, in order of revisions; all changes of one commit in one call.
struct WatchSink {
  std::function<void(Revision revision, std::vector<Change> changes)> changed;
  /// The history after the revision asked for is gone, or the watcher was too slow: list again. Said once.
  std::function<void(Revision compacted)> compacted;
};

/// Ends the watch when destroyed; nothing is delivered afterwards. Loop thread only.
class Watch {
 public:
  virtual ~Watch() = default;
};

/// The cloud's state: revisioned keys with guarded transactions, after etcd's contract, so that one node's file and
/// a replicated store serve the same callers. Implementations: MemoryStore, SqliteStore; one contract suite.
///
/// Asynchronous: calls and completions on the Loop given at construction; a completion never comes before its call
/// returned. A commit that is acknowledged survives kill -9 and loss of power. Reads see all commits acknowledged
/// before them. Errors of reads: unavailable, timeout (5 s), invalid (a revision in the future, or compacted).
/// Source: etcd's API guarantees, etcd-io/etcd.
class Store {
 public:
  virtual ~Store() = default;

  virtual void get(std::string key, Callback<std::optional<KeyValue>> done) = 0;
  virtual void list(ListRequest request, Callback<Page> done) = 0;

  /// All writes or none, if all guards hold. Error only for a request that can never be valid (limits, a key twice)
  /// or when the store refuses to write (disk full: exhausted); else an outcome.
  virtual void commit(std::vector<Guard> guards, std::vector<Write> writes,
                      Callback<CommitOutcome> done) = 0;

  /// Every change with key prefix `prefix` in commits after `after`.
  virtual std::unique_ptr<Watch> watch(std::string prefix, Revision after, WatchSink sink) = 0;

  /// A lease that ends `time_to_live` after its last renewal; its keys go with it, in one commit.
  virtual void grant(Duration time_to_live, Callback<StoreLeaseId> done) = 0;
  virtual void renew(StoreLeaseId lease, Callback<void> done) = 0;  ///< not_found when it has ended
  virtual void revoke(StoreLeaseId lease, Callback<void> done) = 0;

  /// Forgets history before `revision`; watches from earlier are told `compacted`.
  virtual void compact(Revision revision, Callback<void> done) = 0;
};

}  // namespace virga
