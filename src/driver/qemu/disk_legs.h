#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "driver/qemu/qmp_commands.h"
#include "model/launch.h"

namespace virga {

/// A disk that is a mirrored volume, in QEMU: a node for each place, named by its device so that another agent reads
/// from QEMU which of them are written, and one above two of them. Source: QEMU 7.2, block/quorum.c.
struct LegNodes {
  std::string device;  ///< id of the disk's device
  std::string both;    ///< writes to two places, reads from the first
  std::string
      empty;  ///< stands in for a moment, guest paused: `both` takes no place that is written beside it
};

LegNodes leg_nodes(std::size_t disk);
std::string leg_node(std::size_t disk, const DeviceId& device);

/// How long a place of a mirrored volume is awaited before what is written to it fails.
inline constexpr int kLegReconnectSeconds = 2;

/// Puts the disk on the node of one place, guest paused; what stood above it goes. A further call goes on with what an
/// earlier one has left. Errors: those of QmpClient.
void put_on_leg(QmpClient& client, const LegNodes& nodes, const std::string& leg,
                Callback<void> done);

/// ... on two places, which are there and equal.
void put_on_both(QmpClient& client, const LegNodes& nodes, const std::vector<std::string>& legs,
                 Callback<void> done);

}  // namespace virga
