#include "agent/devices.h"

#include <fmt/format.h>

#include "base/log.h"

namespace virga {
namespace {

bool is_storage(CommandKind kind) {
  return kind >= CommandKind::serve_device && kind <= CommandKind::revoke_volume;
}

}  // namespace

bool Devices::execute(const Command& command, const Callback<CommandResult>& done) {
  if (!is_storage(command.kind)) return false;
  if (!command.storage) {
    done(make_error(Errc::invalid, "storage: is missing"));
    return true;
  }
  const StorageCommand& asked = *command.storage;
  const Callback<void> plain = [done](Result<void> result) {
    if (!result) return done(result.error());
    done(CommandResult{});
  };
  if (command.kind == CommandKind::serve_device) {
    serve(asked, plain);
    return true;
  }
  if (command.kind == CommandKind::release_device) {
    devices_.erase(asked.device);
    plain({});
    return true;
  }
  auto store = find(asked);
  if (!store) {
    done(store.error());
    return true;
  }
  work(command, **store, done);
  return true;
}

Result<BlockStore*> Devices::find(const StorageCommand& asked) {
  const auto found = devices_.find(asked.device);
  if (found == devices_.end()) {
    return make_error(Errc::not_found,
                      fmt::format("device {} is not served here", asked.device.value));
  }
  const Device& device = found->second;
  if (device.open) return device.store.get();
  return make_error(Errc::unavailable,
                    fmt::format("device {}: {}", asked.device.value,
                                device.failing.empty() ? "is being opened" : device.failing));
}

void Devices::serve(const StorageCommand& asked, const Callback<void>& done) {
  Device& device = devices_[asked.device];
  if (device.open && device.directory == asked.directory) return done({});
  if (device.opening) {
    return done(make_error(Errc::unavailable,
                           fmt::format("device {}: is being opened", asked.device.value)));
  }
  if (!make_) {
    device.failing = "this host has no driver of storage devices";
    return done(make_error(Errc::unsupported, device.failing));
  }
  auto made = make_(asked.directory);
  if (!made) {
    device.failing = made.error().text();
    return done(made.error());
  }
  device = Device{asked.directory, std::move(*made), false, true, {}};
  device.store->open(
      [this, id = asked.device, done, alive = std::weak_ptr(alive_)](const Result<void>& result) {
        if (!alive.expired()) opened(id, result, done);
      });
}

void Devices::opened(const DeviceId& id, const Result<void>& result, const Callback<void>& done) {
  const auto found = devices_.find(id);
  if (found == devices_.end()) {
    return done(make_error(Errc::cancelled, "device " + id.value + " was released meanwhile"));
  }
  Device& device = found->second;
  device.opening = false;
  device.open = result.ok();
  device.failing = result.ok() ? "" : result.error().text();
  if (!result) log_line(LogLevel::error, "agent", "device " + id.value + ": " + device.failing);
  done(result);
}

void Devices::work(const Command& command, BlockStore& store, const Callback<CommandResult>& done) {
  const StorageCommand& asked = *command.storage;
  const auto plain = [done](Result<void> result) {
    if (!result) return done(result.error());
    done(CommandResult{});
  };
  switch (command.kind) {
    case CommandKind::create_volume:
      return store.create(asked.volume, asked.size_mib, command.epoch, plain);
    case CommandKind::grow_volume:
      return store.grow(asked.volume, asked.size_mib, plain);
    case CommandKind::erase_volume:
      return store.erase(asked.volume, plain);
    case CommandKind::detach_volume:
      return store.detach(asked.volume, command.epoch, plain);
    case CommandKind::revoke_volume:
      return store.revoke(asked.volume, command.epoch, plain);
    default:
      store.attach(asked.volume, command.epoch, asked.beside,
                   [done](Result<VolumeEndpoint> endpoint) {
                     if (!endpoint) return done(endpoint.error());
                     CommandResult answer;
                     answer.attached = std::move(*endpoint);
                     done(std::move(answer));
                   });
  }
}

std::vector<ObservedDevice> Devices::observe() const {
  std::vector<ObservedDevice> seen;
  seen.reserve(devices_.size());
  for (const auto& [id, device] : devices_) {
    seen.push_back({id, device.directory, device.open, device.failing,
                    device.open ? device.store->observe() : std::vector<ObservedVolume>()});
  }
  return seen;
}

}  // namespace virga
