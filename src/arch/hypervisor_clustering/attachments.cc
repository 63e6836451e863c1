#include "arch/hypervisor_clustering/attachments.h"

#include <fmt/format.h>

#include <memory>

namespace virga {
namespace {

constexpr Duration kDeadline = seconds(12);

/// The newest epoch that is older than this one.
Epoch below(const Epoch& epoch) { return {epoch.incarnation, epoch.counter - 1}; }

Command command_for(const ServedVolume& one, CommandKind kind, const Vm& vm, const Epoch& epoch) {
  Command command;
  command.kind = kind;
  command.correlation = vm.meta.correlation;
  command.vm = vm.id();
  command.epoch = epoch;
  command.storage = StorageCommand{one.device, {}, one.volume, {}, {}, {}};
  return command;
}

/// Waits for several answers; the first error counts.
template <typename T>
class Gather {
 public:
  Gather(std::size_t count, Callback<T> done) : left_(count), done_(std::move(done)) {}

  void ended(const Result<void>& result) {
    if (!result && !failure_) failure_ = result.error();
    if (--left_ > 0) return;
    if (failure_) return done_(*failure_);
    if constexpr (std::is_void_v<T>) {
      done_({});
    } else {
      done_(std::move(collected));
    }
  }

  std::conditional_t<std::is_void_v<T>, int, T> collected{};

 private:
  std::size_t left_;
  Callback<T> done_;
  std::optional<Error> failure_;
};

}  // namespace

void Attachments::attach_one(const ServedVolume& one, Command attach, bool alone,
                             Callback<CommandResult> done) {
  if (!alone) return commands_.call(one.host, std::move(attach), kDeadline, std::move(done));
  Command revoke = attach;
  revoke.kind = CommandKind::revoke_volume;
  revoke.epoch = below(attach.epoch);
  commands_.call(one.host, std::move(revoke), kDeadline,
                 [commands = &commands_, host = one.host, attach = std::move(attach),
                  done = std::move(done)](const Result<CommandResult>& revoked) {
                   if (!revoked) return done(revoked.error());
                   commands->call(host, attach, kDeadline, done);
                 });
}

void Attachments::attach(const ClusterView& view, const Vm& vm, const Epoch& epoch,
                         Callback<Endpoints> done) {
  attach_beside(view, vm, epoch, Epoch(), std::move(done));
}

void Attachments::attach_at(const ServedVolume& place, const Vm& vm, const Epoch& epoch,
                            Callback<VolumeEndpoint> done) {
  attach_one(place, command_for(place, CommandKind::attach_volume, vm, epoch), true,
             [what = "volume " + place.volume.value + " on " + place.device.value,
              done = std::move(done)](const Result<CommandResult>& result) {
               if (!result) return done(wrap_error(what, result.error()));
               if (!result->attached) {
                 return done(make_error(Errc::internal, what + ": its host named no end point"));
               }
               done(*result->attached);
             });
}

void Attachments::attach_beside(const ClusterView& view, const Vm& vm, const Epoch& epoch,
                                const Epoch& beside, Callback<Endpoints> done) {
  const auto volumes = volumes_of(view, vm);
  if (!volumes) return done(volumes.error());
  if (volumes->empty()) return done(Endpoints());
  const auto gather = std::make_shared<Gather<Endpoints>>(volumes->size(), std::move(done));
  for (const ServedVolume& one : *volumes) {
    Command attach = command_for(one, CommandKind::attach_volume, vm, epoch);
    attach.storage->beside = beside;
    attach_one(one, std::move(attach), beside == Epoch(),
               [gather, id = one.volume.value](const Result<CommandResult>& result) {
                 if (!result) return gather->ended(wrap_error("volume " + id, result.error()));
                 if (!result->attached) {
                   return gather->ended(make_error(
                       Errc::internal, "volume " + id + ": its host named no end point"));
                 }
                 gather->collected[id] = *result->attached;
                 gather->ended({});
               });
  }
}

void Attachments::revoke(const ClusterView& view, const Vm& vm, const Epoch& epoch,
                         Callback<void> done) {
  all(view, vm, CommandKind::revoke_volume, epoch, std::move(done));
}

void Attachments::detach(const ClusterView& view, const Vm& vm, const Epoch& epoch,
                         Callback<void> done) {
  all(view, vm, CommandKind::detach_volume, epoch, std::move(done));
}

void Attachments::all(const ClusterView& view, const Vm& vm, CommandKind kind, const Epoch& epoch,
                      Callback<void> done) {
  const auto volumes = volumes_of(view, vm);
  if (!volumes) return done(volumes.error());
  if (volumes->empty()) return done({});
  const auto gather = std::make_shared<Gather<void>>(volumes->size(), std::move(done));
  for (const ServedVolume& one : *volumes) {
    commands_.call(one.host, command_for(one, kind, vm, epoch), kDeadline,
                   [gather, id = one.volume.value](const Result<CommandResult>& result) {
                     if (result.ok()) return gather->ended({});
                     gather->ended(wrap_error("volume " + id, result.error()));
                   });
  }
}

Result<void> add_endpoints(VmLaunch& launch, const Attachments::Endpoints& endpoints) {
  for (LaunchDisk& disk : launch.disks) {
    if (disk.volume.empty()) continue;
    const auto found = endpoints.find(disk.volume);
    if (found == endpoints.end()) {
      return make_error(Errc::internal,
                        "disk " + disk.name + ": nobody was let in to " + disk.volume);
    }
    disk.endpoint = found->second;
  }
  return {};
}

}  // namespace virga
