#include "arch/hypervisor_clustering/attachments.h"

#include <fmt/format.h>

#include <algorithm>
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

/// Waits for the answers of several places, in their order: for all, or until they are `enough`.
template <typename T>
class Gather {
 public:
  using Answers = std::vector<std::pair<ServedVolume, Result<T>>>;
  using Enough = std::function<bool(const Answers&)>;

  Gather(const std::vector<ServedVolume>& asked, std::function<void(const Answers&)> then,
         Enough enough = nullptr)
      : left_(asked.size()), then_(std::move(then)), enough_(std::move(enough)) {
    for (const ServedVolume& one : asked) {
      answers_.emplace_back(one, make_error(Errc::internal, "not answered"));
    }
  }

  void ended(std::size_t index, Result<T> result) {
    const std::string& volume = answers_[index].first.volume.value;
    if (!result) result = wrap_error("volume " + volume, result.error());
    answers_[index].second = std::move(result);
    const bool all = --left_ == 0;
    if (then_ == nullptr || (!all && !(enough_ && enough_(answers_)))) return;
    std::exchange(then_, nullptr)(answers_);
  }

 private:
  std::size_t left_;
  std::function<void(const Answers&)> then_;  ///< none = it has run
  Enough enough_;
  Answers answers_;
};

Result<VolumeEndpoint> endpoint_in(const Result<CommandResult>& result, const DeviceId& device) {
  if (!result) return result.error();
  if (!result->attached) return make_error(Errc::internal, "its host named no end point");
  VolumeEndpoint endpoint = *result->attached;
  endpoint.device = device;
  return endpoint;
}

/// A place of each volume has given its word.
template <typename Words>
bool one_of_each(const Words& words) {
  return std::ranges::all_of(words, [&](const auto& word) {
    return std::ranges::any_of(words, [&](const auto& other) {
      return other.first.volume == word.first.volume && other.second.ok();
    });
  });
}

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
                         Callback<VolumeAdmission> done) {
  attach_beside(view, vm, epoch, Epoch(), std::move(done));
}

void Attachments::attach_at(const ServedVolume& place, const Vm& vm, const Epoch& epoch,
                            Callback<VolumeEndpoint> done) {
  attach_one(place, command_for(place, CommandKind::attach_volume, vm, epoch), true,
             [what = "volume " + place.volume.value + " on " + place.device.value,
              device = place.device, done = std::move(done)](const Result<CommandResult>& result) {
               const auto endpoint = endpoint_in(result, device);
               done(endpoint ? endpoint : wrap_error(what, endpoint.error()));
             });
}

void Attachments::attach_beside(const ClusterView& view, const Vm& vm, const Epoch& epoch,
                                const Epoch& beside, Callback<VolumeAdmission> done) {
  const auto volumes = volumes_of(view, vm);
  if (!volumes) return done(volumes.error());
  if (volumes->empty()) return done(VolumeAdmission());
  using Waiting = Gather<VolumeEndpoint>;
  const auto gather = std::make_shared<Waiting>(
      *volumes, [done = std::move(done)](const Waiting::Answers& answers) {
        VolumeAdmission admission;
        for (const auto& [one, endpoint] : answers) {
          if (endpoint) {
            admission.endpoints.emplace_back(one.volume, *endpoint);
            continue;
          }
          if (admission.refused.empty()) admission.why = endpoint.error();
          admission.refused.push_back(one);
        }
        done(std::move(admission));
      });
  for (std::size_t index = 0; index < volumes->size(); ++index) {
    const ServedVolume& one = (*volumes)[index];
    Command attach = command_for(one, CommandKind::attach_volume, vm, epoch);
    attach.storage->beside = beside;
    attach_one(one, std::move(attach), beside == Epoch(),
               [gather, index, device = one.device](const Result<CommandResult>& result) {
                 gather->ended(index, endpoint_in(result, device));
               });
  }
}

void Attachments::revoke(const ClusterView& view, const Vm& vm, const Epoch& epoch,
                         Callback<std::vector<ServedVolume>> done) {
  const auto then = [done = std::move(done)](const Result<Words>& words) {
    if (!words) return done(words.error());
    std::vector<ServedVolume> given;
    const Error* why = nullptr;
    for (const auto& [one, word] : *words) {
      if (word.ok()) given.push_back(one);
    }
    for (const auto& [one, word] : *words) {
      const bool said = std::ranges::count(given, one.volume, &ServedVolume::volume) > 0;
      if (!said && why == nullptr) why = &word.error();
    }
    why == nullptr ? done(std::move(given)) : done(*why);
  };
  ask_all(view, vm, {CommandKind::revoke_volume, epoch, one_of_each<Words>}, then);
}

void Attachments::detach(const ClusterView& view, const Vm& vm, const Epoch& epoch,
                         Callback<void> done) {
  ask_all(view, vm, {CommandKind::detach_volume, epoch},
          [done = std::move(done)](const Result<Words>& words) {
            if (!words) return done(words.error());
            for (const auto& [one, word] : *words) {
              if (!word) return done(word.error());
            }
            done({});
          });
}

void Attachments::ask_all(const ClusterView& view, const Vm& vm, const Question& question,
                          Callback<Words> done) {
  const auto volumes = volumes_of(view, vm);
  if (!volumes) return done(volumes.error());
  if (volumes->empty()) return done(Words());
  const auto gather = std::make_shared<Gather<void>>(
      *volumes, [done = std::move(done)](const Words& words) { done(words); }, question.enough);
  for (std::size_t index = 0; index < volumes->size(); ++index) {
    const ServedVolume& one = (*volumes)[index];
    commands_.call(one.host, command_for(one, question.kind, vm, question.epoch), kDeadline,
                   [gather, index](const Result<CommandResult>& result) {
                     gather->ended(index, result ? Result<void>() : Result<void>(result.error()));
                   });
  }
}

Result<void> add_endpoints(VmLaunch& launch, const VolumeAdmission& admission) {
  if (!admission.refused.empty()) return admission.why;
  for (LaunchDisk& disk : launch.disks) {
    if (disk.volume.empty()) continue;
    for (const auto& [volume, endpoint] : admission.endpoints) {
      if (volume.value != disk.volume) continue;
      (disk.endpoint ? disk.second : disk.endpoint) = endpoint;
    }
    if (!disk.endpoint) {
      return make_error(Errc::internal,
                        "disk " + disk.name + ": nobody was let in to " + disk.volume);
    }
  }
  return {};
}

}  // namespace virga
