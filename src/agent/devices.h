#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/protocol.h"
#include "driver/block_store.h"

namespace virga {

/// The storage devices that this host serves: which ones, the server says (serve_device); what they hold stands on the
/// devices. Loop thread only. Servers of volumes outlive it.
class Devices {
 public:
  /// Makes the driver of a device in `directory`, not open yet. Errors: unsupported (no driver on this host), invalid.
  using Make = std::function<Result<std::unique_ptr<BlockStore>>(const std::string& directory)>;

  /// `make` may be empty: this host serves no device. `shared`: the cluster's directory, where images are.
  explicit Devices(Make make, std::string shared = {})
      : make_(std::move(make)), shared_(std::move(shared)) {}

  /// Whether the command is one of a device's; then `done` runs exactly once, within the deadlines of BlockStore, or
  /// never when this object ends before. Errors: those of BlockStore; not_found (the device is not served here),
  /// invalid (a field is missing), unavailable (it is being opened, or could not be: the next serve_device tries
  /// again; or it cannot be given up yet, as other calls of it are under way).
  bool execute(const Command& command, const Callback<CommandResult>& done);

  /// In order of id. Cost: that of BlockStore::observe() of each.
  std::vector<ObservedDevice> observe() const;

 private:
  struct Device {
    std::string directory;
    Mib copied_per_second;
    std::unique_ptr<BlockStore> store;
    bool open = false;
    std::string failing;
    int calls = 0;  ///< under way in the store: it stays until they have ended
  };

  /// What a store answers a call with, handed on to who asked.
  template <class T>
  Callback<T> answer(const DeviceId& id, const Callback<CommandResult>& done);
  void serve(const StorageCommand& asked, const Callback<CommandResult>& done);
  Result<void> give_up(const DeviceId& id);
  Result<BlockStore*> find(const StorageCommand& asked);
  void work(const Command& command, BlockStore& store, const Callback<CommandResult>& done);
  void create(const Command& command, BlockStore& store, const Callback<void>& done);

  Make make_;
  const std::string shared_;
  std::map<DeviceId, Device> devices_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
