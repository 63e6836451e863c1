#pragma once

#include "arch/storage_workload/types.h"
#include "runtime/cluster_view.h"

namespace virga {

/// Decides for the storage of one cluster: which devices are to be served, where new volumes go, what devices shall do
/// so that volumes are as they are asked for. The contract of every planner (ARCHITECTURE.md) holds.
///
/// Attachments that no copy may have any more (its VM has ended, its move was given up) are ended.
///
/// Safety: no device gets more volumes than it has room for; a volume that was there and is not reported any more is
/// never made anew; nothing is erased but what its owner has deleted. Cost: O(devices + the cluster's volumes * log).
StoragePlan plan_storage(const ClusterView& view, const ClusterId& cluster,
                         const StorageEvidence& evidence, const StorageOptions& options);

}  // namespace virga
