#include "sim/checker.h"

#include <fmt/format.h>

#include <algorithm>

#include "agent/leash_core.h"
#include "base/reflect.h"

namespace virga::sim {
namespace {

constexpr Duration kLeaseSlack = milliseconds(1500);  // an ordered stop, a drifting clock
constexpr Duration kWatchdogSlack = LeashCore::kOverrun + milliseconds(200);  // a drifting clock
constexpr Duration kNoticed = seconds(15);  // a balancer's checks, a report, a decision
constexpr std::size_t kViolationsMax = 20;

}  // namespace

Checker::Checker(World& world, Records records) : world_(world), records_(std::move(records)) {
  world_.observe([this](WorldChange change, const HostTruth& host, const Copy* copy) {
    changed(change, host, copy);
  });
}

void Checker::report(const std::string& rule, const std::string& text) {
  if (violations_.size() < kViolationsMax) {
    violations_.push_back({world_.loop().elapsed(), rule, text});
  }
}

/// Whom it befalls may have answered until now.
void Checker::note_trouble(WorldChange change, const HostTruth& host, const Copy* copy) {
  const Instant now = world_.loop().now();
  if (change == WorldChange::power || change == WorldChange::links) {
    for (const auto& [vm, here] : host.copies) histories_[vm].troubled_at = now;
  } else if (change == WorldChange::guest ||
             (change == WorldChange::ended && copy->trouble != kOrderedStop)) {
    histories_[copy->vm].troubled_at = now;
  }
}

void Checker::check_removal(const HostTruth& host, const Copy& copy) {
  const Instant now = world_.loop().now();
  if (!records_.beside || copy.trouble != kOrderedStop || !host.acts() || !copy.answers(now))
    return;
  const auto others = records_.beside(copy.vm);
  if (!others) return;
  for (const VmId& other : *others) {
    const History& history = histories_[other];
    if (history.troubled_at && now - *history.troubled_at < kNoticed) return;
    for (const std::uint64_t serial : history.running) {
      HostTruth* at = nullptr;
      const Copy* beside = world_.find_copy(serial, &at);
      if (beside != nullptr && at->acts() && beside->answers(now)) return;
    }
  }
  report("removed_early", fmt::format("{} was ended on {} while none of {} others answers",
                                      copy.vm.value, host.id.value, others->size()));
}

/// A host that has lost its lease ends all that it runs, by whatever name.
void Checker::check_end(const HostTruth& host, const Copy& copy) {
  check_removal(host, copy);
  if (!records_.known || copy.trouble != kOrderedStop || records_.known(copy.vm)) return;
  if (!host.acts() || world_.loop().now() >= host.lease_until) return;
  report("stray_ended", fmt::format("{} was ended on {} by an order, unknown to the store",
                                    copy.vm.value, host.id.value));
}

/// A copy's process exists from now on.
void Checker::check_begun(const HostTruth& host, const Copy& copy) {
  check_capacity(host);
  if (copy.epoch > records_.epoch(copy.vm) && copy.epoch > records_.decided(copy.vm)) {
    report("unrecorded_epoch", fmt::format("{} has a copy of {} with epoch {}; stored is {}",
                                           host.id.value, copy.vm.value, to_string(copy.epoch),
                                           to_string(records_.epoch(copy.vm))));
  }
  const auto allowed = records_.regions ? records_.regions(copy.vm) : std::nullopt;
  if (!allowed || allowed->contains(host.region)) return;
  report("region", fmt::format("{} is on {}, which is in region \"{}\"", copy.vm.value,
                               host.id.value, host.region));
}

/// One that a place of the volume has cut off, or whose machine stands still, writes nothing.
void Checker::check_writers(const Copy& copy) {
  for (const auto& [volume, disk] : copy.volumes) {
    std::string writing;
    int count = 0;
    for (const std::uint64_t serial : writers_[volume]) {
      HostTruth* host = nullptr;
      const Copy* other = world_.find_copy(serial, &host);
      if (other == nullptr || !host->acts() ||
          !world_.admitted(volume, other->volumes.at(volume)))
        continue;
      writing += fmt::format(" {} on {}", other->vm.value, host->id.value);
      ++count;
    }
    if (count > 1) report("two_writers", fmt::format("{} is written by{}", volume.value, writing));
  }
}

void Checker::changed(WorldChange change, const HostTruth& host, const Copy* copy) {
  note_trouble(change, host, copy);
  if (change == WorldChange::power && host.acts()) {
    for (const auto& [vm, here] : host.copies) {
      if (here.state == CopyState::running) copy_runs(host, here);
    }
    return;
  }
  if (copy == nullptr || change == WorldChange::guest) return;
  History& history = histories_[copy->vm];
  std::erase(history.running, copy->serial);
  for (const auto& [volume, disk] : copy->volumes) std::erase(writers_[volume], copy->serial);
  if (change == WorldChange::ended) {
    check_end(host, *copy);
    if (copy->epoch == history.highest_run) {
      history.lost = copy->trouble != kOrderedStop && copy->state != CopyState::postmigrate;
      history.lease_until = host.lease_until;
    }
    return;
  }
  if (change == WorldChange::spawned) check_begun(host, *copy);
  if (copy->state != CopyState::running) return;
  check_proof(host, *copy, history);
  if (const std::string volume = world_.lost_writes(*copy); !volume.empty()) {
    report("lost_write", fmt::format("{} runs on {} and its volume {} does not hold what was "
                                     "acknowledged last",
                                     copy->vm.value, host.id.value, volume));
  }
  const auto shared = world_.stored().find(copy->vm);
  if (shared == world_.stored().end() || shared->second.epoch < copy->epoch) {
    report("unshared", fmt::format("{} runs on {} with epoch {}, and no host can read so",
                                   copy->vm.value, host.id.value, to_string(copy->epoch)));
  }
  history.running.push_back(copy->serial);
  for (const auto& [volume, disk] : copy->volumes) writers_[volume].push_back(copy->serial);
  copy_runs(host, *copy);
}

void Checker::copy_runs(const HostTruth& host, const Copy& copy) {
  History& history = histories_[copy.vm];
  if (!host.acts() || world_.cut_off(copy)) return;
  if (history.has_run && copy.epoch < history.highest_run) {
    report("old_epoch",
           fmt::format("{} on {} runs with epoch {} after {} has run", copy.vm.value, host.id.value,
                       to_string(copy.epoch), to_string(history.highest_run)));
  }
  check_places(copy.vm);
  check_writers(copy);
  if (!history.has_run || copy.epoch >= history.highest_run) {
    history.highest_run = copy.epoch;
    history.last_host = host.index;
    history.last_boot = host.boots;
    history.has_run = true;
    history.lost = false;
  }
}

std::vector<std::size_t> Checker::running_at(const VmId& vm) const {
  std::vector<std::size_t> places;
  const auto found = histories_.find(vm);
  if (found == histories_.end()) return places;
  for (const std::uint64_t serial : found->second.running) {
    HostTruth* host = nullptr;
    const Copy* copy = world_.find_copy(serial, &host);
    if (copy != nullptr && host->acts() && !world_.cut_off(*copy)) places.push_back(host->index);
  }
  return places;
}

void Checker::check_places(const VmId& vm) {
  const auto places = running_at(vm);
  if (places.size() < 2) return;
  std::string names;
  for (const std::size_t place : places) names += " " + world_.hosts()[place].id.value;
  report("two_places", fmt::format("{} runs on{}", vm.value, names));
}

bool Checker::all_cut_off(const HostTruth& last, const History& history) const {
  return std::all_of(history.running.begin(), history.running.end(), [&](std::uint64_t serial) {
    HostTruth* host = nullptr;
    const Copy* copy = world_.find_copy(serial, &host);
    return copy == nullptr || host->index != last.index || world_.cut_off(*copy);
  });
}

/// A copy begins to run: if the one before was lost, the store says why that one cannot act, and
/// it is so.
void Checker::check_proof(const HostTruth& host, const Copy& copy, const History& history) {
  if (!history.has_run || copy.epoch == history.highest_run || copy.peer != 0) return;
  if (world_.cut_off(copy)) return;  // one that was frozen while its disk was handed over goes on
  if (!history.lost && history.running.empty()) return;
  const HostTruth& last = world_.hosts()[history.last_host];
  const std::string what = fmt::format("start of {} with epoch {} on {}", copy.vm.value,
                                       to_string(copy.epoch), host.id.value);
  FenceProof proof = FenceProof::none;
  for (const LostCopy& lost : records_.lost(copy.vm, copy.epoch)) {
    if (lost.host == last.id) proof = lost.proof;
  }
  if (proof == FenceProof::none) {
    return report("unproven_start", fmt::format("{}: no proof names {}", what, last.id.value));
  }
  bool holds = true;
  switch (proof) {
    case FenceProof::bmc_power_off:
      // A lie told under this boot is believed also after the liar was mended: that the copy does
      // not run twice is then up to the image locks and the lease.
      holds = !last.powered || last.boots != history.last_boot || last.bmc == BmcMode::lies ||
              last.lied_boot == last.boots;
      break;
    case FenceProof::lease_and_leash:
      holds =
          world_.loop().now() >= (history.running.empty() ? history.lease_until : last.lease_until);
      break;
    case FenceProof::storage_revoked:
      holds = all_cut_off(last, history);
      break;
    case FenceProof::none:
    case FenceProof::agent_confirmed_stop:
    case FenceProof::operator_confirmed:
      break;
  }
  if (!holds) {
    report("unproven_start",
           fmt::format("{}: proof {} is not true of {}", what, enum_name(proof), last.id.value));
  }
}

void Checker::check_capacity(const HostTruth& host) {
  const Capacity used = host.used();
  const std::int64_t cpu_max =
      host.capacity.cpu_millicores.value * records_.cpu_overcommit_percent / 100;
  if (used.memory_mib > host.capacity.memory_mib || used.cpu_millicores.value > cpu_max) {
    report("capacity", fmt::format("{} holds {} MiB of {} and {} of {} millicores", host.id.value,
                                   used.memory_mib.value, host.capacity.memory_mib.value,
                                   used.cpu_millicores.value, cpu_max));
  }
}

void Checker::lease_granted(HostTruth& host, Instant until) {
  host.lease_until = std::max(host.lease_until, until);
  char& watched = flag(lease_watched_, host.index);
  if (watched != 0) return;
  watched = 1;
  world_.loop().at(lease_check_due(host), [this, index = host.index] { check_lease(index); });
}

Instant Checker::lease_check_due(const HostTruth& host) {
  const bool watchdog = flag(enders_, host.index) == static_cast<char>(Ender::watchdog);
  return host.lease_until + (watchdog ? kWatchdogSlack : kLeaseSlack);
}

void Checker::check_lease(std::size_t index) {
  const HostTruth& host = world_.hosts()[index];
  const Instant due = lease_check_due(host);
  if (host.lease_until != Instant{} && due > world_.loop().now()) {
    world_.loop().at(due, [this, index] { check_lease(index); });
    return;
  }
  flag(lease_watched_, index) = 0;
  if (!host.acts() || flag(enders_, index) == static_cast<char>(Ender::nobody)) return;
  for (const auto& [vm, copy] : host.copies) {
    if (copy.state != CopyState::running) continue;
    report("lease", fmt::format("{} runs on {} whose lease has ended", vm.value, host.id.value));
  }
}

}  // namespace virga::sim
