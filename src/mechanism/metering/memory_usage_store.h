#pragma once

#include <map>
#include <memory>

#include "base/loop.h"
#include "mechanism/metering/usage_store.h"

namespace virga::metering {

/// What outlives a MemoryUsageStore, as a file does.
struct MemoryUsage {
  std::int64_t born_ms = 0;
  std::int64_t window = -1;  ///< the last that was kept
  std::map<std::int64_t, Subject> subjects;
  std::map<std::int64_t, Charged> charged;
  std::map<std::pair<std::int64_t, std::int64_t>, Charge> ledger;  ///< by day and copy

  Result<void> keep(const Window& window);
  std::vector<LedgerEntry> entries(const LedgerQuery& query) const;
};

/// For the simulator and tests: keeps the ledger and no points.
class MemoryUsageStore final : public UsageStore {
 public:
  MemoryUsageStore(Loop& loop, std::shared_ptr<MemoryUsage> disk)
      : loop_(loop), disk_(std::move(disk)) {}

  void load(std::int64_t now_ms, Callback<MeterState> done) override;
  void keep(Window window, Callback<void> done) override;
  void points(PointsQuery query, Callback<std::vector<UsageStep>> done) override;
  void ledger(LedgerQuery query, Callback<std::vector<LedgerEntry>> done) override;

 private:
  Loop& loop_;
  std::shared_ptr<MemoryUsage> disk_;
};

}  // namespace virga::metering
