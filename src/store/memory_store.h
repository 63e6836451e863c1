#pragma once

#include <map>
#include <memory>

#include "base/loop.h"
#include "base/rng.h"
#include "store/store_leases.h"
#include "store/store_state.h"
#include "store/watch_hub.h"

namespace virga {

/// Faults that tests and the simulator inject; all off by default. Chances are per million commits.
struct MemoryStoreOptions {
  std::uint32_t unknown_done_per_million = 0;  ///< answered `unknown`, and it happened
  std::uint32_t unknown_lost_per_million = 0;  ///< answered `unknown`, and it did not happen
  std::uint32_t compact_per_million = 0;       ///< all history is forgotten after the commit
  Duration commit_delay_min{};  ///< from the call to the effect, drawn uniformly, order kept
  Duration commit_delay_max{};
};

/// What outlives a MemoryStore as a disk outlives a process: a new store opened on it goes on at the same revision.
struct MemoryDisk {
  explicit MemoryDisk(HistoryBounds bounds = {}) : state(bounds) {}

  StoreState state;
  std::map<StoreLeaseId, Duration> leases;  ///< time to live
  StoreLeaseId lease_last = 0;
  bool full = false;  ///< commits and grants are refused as `exhausted` while set
};

/// The store of simulations and tests: in memory, on any Loop, deterministic for one seed and one order of calls.
/// Destroying it is a crash: what was not applied yet is lost, and no completion comes any more.
class MemoryStore final : public Store {
 public:
  /// `disk` null = a new, empty one.
  MemoryStore(Loop& loop, Rng rng, MemoryStoreOptions options = {},
              std::shared_ptr<MemoryDisk> disk = nullptr);
  ~MemoryStore() override;

  void get(std::string key, Callback<std::optional<KeyValue>> done) override;
  void list(ListRequest request, Callback<Page> done) override;
  void commit(std::vector<Guard> guards, std::vector<Write> writes,
              Callback<CommitOutcome> done) override;
  std::unique_ptr<Watch> watch(std::string prefix, Revision after, WatchSink sink) override;
  void grant(Duration time_to_live, Callback<StoreLeaseId> done) override;
  void renew(StoreLeaseId lease, Callback<void> done) override;
  void revoke(StoreLeaseId lease, Callback<void> done) override;
  void compact(Revision revision, Callback<void> done) override;

  /// Changes the faults for commits from now on.
  void set_options(MemoryStoreOptions options) { options_ = options; }

  const std::shared_ptr<MemoryDisk>& disk() const { return disk_; }

 private:
  void post(Task task);
  Instant draw_effect_time();
  Result<CommitOutcome> apply(const std::vector<Guard>& guards, std::vector<Write> writes);
  Result<void> end_lease(StoreLeaseId lease);

  Loop& loop_;
  Rng rng_;
  MemoryStoreOptions options_;
  std::shared_ptr<MemoryDisk> disk_;
  WatchHub hub_;
  StoreLeases leases_;
  Instant last_effect_{};
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
