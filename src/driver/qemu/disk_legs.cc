#include "driver/qemu/disk_legs.h"

#include <fmt/format.h>

#include <functional>
#include <utility>

#include "edge/tls.h"

namespace virga {
namespace {

/// Runs what may fail and may come later, one after the other.
using Step = std::function<void(Callback<void>)>;

void run_in_order(std::vector<Step> steps, const Callback<void>& done) {
  if (steps.empty()) return done({});
  const Step first = std::move(steps.front());
  steps.erase(steps.begin());
  first([steps = std::move(steps), done](const Result<void>& result) {
    result ? run_in_order(steps, done) : done(result);
  });
}

Step removal(QmpClient& client, const std::string& node) {
  return
      [&client, node](Callback<void> then) { qmp::remove_volume(client, node, std::move(then)); };
}

Step use(QmpClient& client, const LegNodes& nodes, const std::string& node) {
  return [&client, device = nodes.device, node](Callback<void> then) {
    qmp::use_node(client, device, node, std::move(then));
  };
}

/// From the node that the disk uses `now` to `wanted`; `prepare` runs while it is on the empty one.
std::vector<Step> way_to(QmpClient& client, const LegNodes& nodes, const qmp::DiskNode& now,
                         const std::string& wanted, const Step& prepare) {
  std::vector<Step> steps;
  if (now.name != wanted && now.name != nodes.empty) {
    steps.push_back(removal(client, nodes.empty));
    steps.push_back([&client, empty = nodes.empty, size = now.size](Callback<void> then) {
      qmp::add_empty(client, empty, size, std::move(then));
    });
    steps.push_back(use(client, nodes, nodes.empty));
  }
  if (now.name != wanted) {
    steps.push_back(removal(client, nodes.both));
    if (prepare) steps.push_back(prepare);
    steps.push_back(use(client, nodes, wanted));
  }
  steps.push_back(removal(client, nodes.empty));
  if (wanted != nodes.both) steps.push_back(removal(client, nodes.both));
  return steps;
}

void turn(QmpClient& client, const LegNodes& nodes, const std::string& wanted, const Step& prepare,
          const Callback<void>& done) {
  qmp::query_disk(client, nodes.device,
                  [&client, nodes, wanted, prepare, done](const Result<qmp::DiskNode>& now) {
                    if (!now) return done(now.error());
                    run_in_order(way_to(client, nodes, *now, wanted, prepare), done);
                  });
}

}  // namespace

LegNodes leg_nodes(std::size_t disk) {
  return {fmt::format("disk{}-device", disk), fmt::format("disk{}-both", disk),
          fmt::format("disk{}-empty", disk)};
}

std::string leg_node(std::size_t disk, const DeviceId& device) {
  constexpr std::size_t kDigits = 12;  // QEMU's names of nodes end at 31 characters
  return fmt::format("disk{}-{}", disk, sha256_hex(device.value).substr(0, kDigits));
}

void put_on_leg(QmpClient& client, const LegNodes& nodes, const std::string& leg,
                Callback<void> done) {
  turn(client, nodes, leg, nullptr, done);
}

void put_on_both(QmpClient& client, const LegNodes& nodes, const std::vector<std::string>& legs,
                 Callback<void> done) {
  const auto add = [&client, nodes, legs](Callback<void> then) {
    qmp::add_quorum(client, nodes.both, legs, std::move(then));
  };
  turn(client, nodes, nodes.both, add, done);
}

}  // namespace virga
