#include "server/core/lease_bounds.h"

#include "runtime/transaction.h"

namespace virga {

void LeaseBounds::tick() {
  const Instant now = loop_.now();
  const auto& clusters = mirror_.view().clusters;
  std::erase_if(noted_, [&](const auto& one) { return clusters.find(one.first) == nullptr; });
  for (const auto& [id, cluster] : clusters.all()) {
    const Duration lease = cluster->spec.policy.lease_ms;
    const auto [noted, is_new] = noted_.try_emplace(id, Noted{lease, now});
    if (noted->second.lease != lease) noted->second = {lease, now};
    const Duration longest = cluster->status.lease_ms;
    if (longest <= lease || now - noted->second.since < longest) continue;
    Cluster changed = *cluster;
    changed.status.lease_ms = lease;
    Transaction transaction;
    transaction.put(changed);
    // One that fails is tried again by the next tick.
    store_.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
  }
}

}  // namespace virga
