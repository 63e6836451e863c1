#include "agent/devices.h"

#include <fmt/format.h>

#include <type_traits>
#include <utility>

#include "base/log.h"

namespace virga {
namespace {

bool is_storage(CommandKind kind) {
  return kind >= CommandKind::serve_device && kind <= CommandKind::copy_volume;
}

}  // namespace

bool Devices::execute(const Command& command, const Callback<CommandResult>& done) {
  if (!is_storage(command.kind)) return false;
  if (!command.storage) {
    done(make_error(Errc::invalid, "storage: is missing"));
    return true;
  }
  const StorageCommand& asked = *command.storage;
  if (command.kind == CommandKind::serve_device) {
    serve(asked, done);
    return true;
  }
  if (command.kind == CommandKind::release_device) {
    const auto gone = give_up(asked.device);
    done(gone ? Result<CommandResult>(CommandResult{}) : gone.error());
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

template <class T>
Callback<T> Devices::answer(const DeviceId& id, const Callback<CommandResult>& done) {
  ++devices_.at(id).calls;
  return [this, id, done, alive = std::weak_ptr(alive_)](Result<T> result) {
    if (alive.expired()) return;
    --devices_.at(id).calls;
    if (!result) return done(result.error());
    CommandResult answered;
    if constexpr (!std::is_void_v<T>) answered.attached = std::move(*result);
    done(std::move(answered));
  };
}

/// A store ends without answers to what it was asked: it goes when nobody waits for one.
Result<void> Devices::give_up(const DeviceId& id) {
  const auto found = devices_.find(id);
  if (found == devices_.end()) return {};
  if (const int calls = found->second.calls; calls > 0) {
    return make_error(Errc::unavailable,
                      fmt::format("device {}: {} calls are under way", id.value, calls));
  }
  devices_.erase(found);
  return {};
}

void Devices::serve(const StorageCommand& asked, const Callback<CommandResult>& done) {
  if (const auto found = devices_.find(asked.device);
      found != devices_.end() && found->second.open && found->second.directory == asked.directory) {
    found->second.copied_per_second = asked.copy_mib_per_second_max;
    found->second.store->limit_copies(asked.copy_mib_per_second_max);
    return done(CommandResult{});
  }
  if (const auto gone = give_up(asked.device); !gone) return done(gone.error());
  Device& device = devices_[asked.device];
  device.directory = asked.directory;
  device.copied_per_second = asked.copy_mib_per_second_max;
  auto made = make_ ? make_(asked.directory)
                    : make_error(Errc::unsupported, "this host has no driver of storage devices");
  if (!made) {
    device.failing = made.error().text();
    return done(made.error());
  }
  device.store = std::move(*made);
  device.store->limit_copies(asked.copy_mib_per_second_max);
  device.store->open(
      answer<void>(asked.device, [this, id = asked.device, done](Result<CommandResult> result) {
        Device& opened = devices_.at(id);
        opened.open = result.ok();
        opened.failing = result ? "" : result.error().text();
        if (!result) {
          log_line(LogLevel::error, "agent", "device " + id.value + ": " + opened.failing);
        }
        done(std::move(result));
      }));
}

void Devices::work(const Command& command, BlockStore& store, const Callback<CommandResult>& done) {
  const StorageCommand& asked = *command.storage;
  if (command.kind == CommandKind::attach_volume) {
    return store.attach(asked.volume, command.epoch, asked.beside,
                        answer<VolumeEndpoint>(asked.device, done));
  }
  const Callback<void> plain = answer<void>(asked.device, done);
  switch (command.kind) {
    case CommandKind::create_volume:
      return create(command, store, plain);
    case CommandKind::copy_volume:
      return store.copy(asked.volume, asked.source, command.epoch, plain);
    case CommandKind::grow_volume:
      return store.grow(asked.volume, asked.size_mib, plain);
    case CommandKind::erase_volume:
      return store.erase(asked.volume, plain);
    case CommandKind::detach_volume:
      return store.detach(asked.volume, command.epoch, plain);
    default:
      store.revoke(asked.volume, command.epoch, plain);
  }
}

void Devices::create(const Command& command, BlockStore& store, const Callback<void>& done) {
  const StorageCommand& asked = *command.storage;
  if (!asked.image) return store.create(asked.volume, asked.size_mib, command.epoch, done);
  ImageDisk image = *asked.image;
  if (("/" + image.path + "/").find("/../") != std::string::npos) {
    return done(make_error(Errc::invalid, "storage.image.path: \"" + image.path +
                                              "\" leaves the shared directory"));
  }
  image.path = shared_ + "/" + image.path;
  store.create_from_image(asked.volume, asked.size_mib, image, command.epoch, done);
}

std::vector<ObservedDevice> Devices::observe() const {
  std::vector<ObservedDevice> seen;
  seen.reserve(devices_.size());
  for (const auto& [id, device] : devices_) {
    seen.push_back({id, device.directory, device.open, device.failing,
                    device.open ? device.store->observe() : std::vector<ObservedVolume>(),
                    device.open && device.store->capabilities().copies,
                    device.open ? device.store->space() : RealSpace(),
                    device.open && device.store->capabilities().images, device.copied_per_second});
  }
  return seen;
}

}  // namespace virga
