#pragma once

#include <functional>
#include <memory>

#include "base/rng.h"
#include "mechanism/metering/memory_usage_store.h"
#include "model/event.h"
#include "sim/drivers.h"
#include "sim/network.h"
#include "sim/sim_journal.h"
#include "store/memory_store.h"

namespace virga::sim {

/// One run of `virgad server`: the shipped ServerCore on a store in memory and simulated links and BMCs. Destroying
/// it is kill -9; what the store committed stays on `disk`.
class ServerRun {
 public:
  struct Parts {
    World& world;
    MessageNetwork& network;
    std::shared_ptr<MemoryDisk> disk;
    JournalDisk& journal;
    Rng rng;
    MemoryStoreOptions store{};
    std::shared_ptr<metering::MemoryUsage> usage{};  ///< nullptr = nothing is metered
    std::function<void(HostTruth&, MachinePower)> switch_power{};
    std::function<void(const Event&)> event{};  ///< told of every entry of the journal
  };

  explicit ServerRun(Parts parts);
  ~ServerRun();
  ServerRun(const ServerRun&) = delete;
  ServerRun& operator=(const ServerRun&) = delete;

  SimProcess& process();
  MemoryStore& store();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace virga::sim
