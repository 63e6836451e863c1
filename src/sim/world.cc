#include "sim/world.h"

#include <fmt/format.h>

#include "model/ipv4.h"

namespace virga::sim {
namespace {

constexpr std::size_t kWorldHostsMax = 65'536;

std::size_t number_of(const HostTruth* party) { return party == nullptr ? SIZE_MAX : party->index; }

bool needs_lock(CopyState state) {
  return state == CopyState::starting || state == CopyState::running || state == CopyState::paused;
}

}  // namespace

Capacity HostTruth::used() const {
  Capacity sum;
  for (const auto& [vm, copy] : copies) {
    sum.cpu_millicores += copy.takes.cpu_millicores;
    sum.memory_mib += copy.takes.memory_mib;
  }
  return sum;
}

HostTruth& World::add_host(const HostId& id, Capacity capacity) {
  VIRGA_CHECK(hosts_.size() < kWorldHostsMax && !by_id_.contains(id.value));
  const std::size_t index = hosts_.size();
  HostTruth& host = hosts_.emplace_back();
  host.id = id;
  host.index = index;
  host.address =
      fmt::format("10.{}.{}.{}", 64 + index / 65'025, index / 255 % 255, index % 255 + 1);
  host.group = loop_.add_group();
  host.capacity = capacity;
  by_id_[id.value] = index;
  return host;
}

HostTruth* World::find_host(const HostId& id) {
  const auto found = by_id_.find(id.value);
  return found == by_id_.end() ? nullptr : &hosts_[found->second];
}

HostTruth* World::find_address(const std::string& address) {
  const auto bits = parse_ipv4(address);
  if (!bits) return nullptr;
  const std::size_t index =
      ((*bits >> 16 & 255) - 64) * 65'025 + (*bits >> 8 & 255) * 255 + (*bits & 255) - 1;
  return index < hosts_.size() && hosts_[index].address == address ? &hosts_[index] : nullptr;
}

int World::demand(const ServiceId& service) const {
  constexpr int kUsual = 10;
  const auto found = demand_.find(service);
  return found == demand_.end() ? kUsual : found->second;
}

void World::cut(const HostTruth* from, const HostTruth* to) {
  cuts_.insert({number_of(from), number_of(to)});
  for (const HostTruth* party : {from, to}) {
    if (party != nullptr) tell(WorldChange::links, *party, nullptr);
  }
}

void World::mend(const HostTruth& host) {
  const bool cut = std::erase_if(cuts_, [&](const auto& pair) {
                     return pair.first == host.index || pair.second == host.index;
                   }) > 0;
  if (!cut) return;
  for (const HostTruth& other : hosts_) tell(WorldChange::links, other, nullptr);
}

bool World::passes(const HostTruth* from, const HostTruth* to) const {
  return cuts_.empty() || !cuts_.contains({number_of(from), number_of(to)});
}

bool World::joined(const HostTruth& one, const HostTruth& other) const {
  return passes(&one, &other) && passes(&other, &one);
}

bool World::storage_reachable(const HostTruth& host) const {
  const Link& link = host.links[static_cast<std::size_t>(Wire::storage)];
  return host.acts() && link.in && link.out;
}

bool World::path(const HostTruth& from, const HostTruth& to, Wire wire) const {
  const auto index = static_cast<std::size_t>(wire);
  return from.powered && to.powered && from.links[index].out && to.links[index].in &&
         (wire != Wire::management || from.partition == to.partition) && passes(&from, &to);
}

bool World::has_files(const VmLaunch& launch) {
  const auto& disks = launch.disks;
  return disks.empty() || std::any_of(disks.begin(), disks.end(),
                                      [](const LaunchDisk& disk) { return disk.volume.empty(); });
}

/// Volumes have no locks: their servers know who may write.
bool World::locks(const Copy& copy, CopyState state) const {
  return options_.image_locks && needs_lock(state) && copy.own_files;
}

VolumeTruth* World::volume_of(const VolumeEndpoint& with, const HostTruth* consumer) {
  const auto served_at = [&](HostTruth& host) -> VolumeTruth* {
    const bool reached = consumer == nullptr || joined(*consumer, host);
    if (!storage_reachable(host) || !reached) return nullptr;
    for (auto& [directory, device] : host.devices) {
      if (VolumeTruth* found = device.served(with)) return found;
    }
    return nullptr;
  };
  // A device is on one host for ever.
  const auto known = served_by_.find(with.device.value);
  if (known != served_by_.end()) return served_at(hosts_[known->second]);
  for (HostTruth& host : hosts_) {
    VolumeTruth* found = served_at(host);
    if (found == nullptr) continue;
    served_by_[with.device.value] = host.index;
    return found;
  }
  return nullptr;
}

std::vector<DeviceId> World::failing_legs(const HostTruth& host, const DiskTruth& disk) {
  std::vector<DeviceId> failing;
  for (const VolumeEndpoint& leg : disk.legs) {
    const bool reached = storage_reachable(host) && volume_of(leg, &host) != nullptr;
    if (!reached) failing.push_back(leg.device);
  }
  return failing;
}

void World::guest_writes(const HostTruth& host, const Copy& copy) {
  const bool runs = copy.state == CopyState::running && !copy.panicked;
  if (!host.acts() || !runs || !storage_reachable(host)) return;
  for (const auto& [volume, disk] : copy.volumes) {
    if (!failing_legs(host, disk).empty()) continue;
    ++writes_;
    for (const VolumeEndpoint& leg : disk.legs) {
      VolumeTruth* truth = volume_of(leg, &host);
      truth->written = writes_;
      acknowledged_[{volume, truth->floor}] = writes_;
    }
  }
}

std::string World::lost_writes(const Copy& copy) {
  for (const auto& [volume, disk] : copy.volumes) {
    for (const VolumeEndpoint& leg : disk.legs) {
      const VolumeTruth* truth = volume_of(leg);
      if (truth == nullptr) continue;
      const auto last = acknowledged_.find({volume, truth->floor});
      if (last != acknowledged_.end() && truth->written != last->second) return volume.value;
    }
  }
  return {};
}

bool World::admitted(const VolumeId& volume, const DiskTruth& disk) const {
  return std::ranges::all_of(disk.legs, [&](const VolumeEndpoint& with) {
    const auto knows = [&](const HostTruth& host) {
      return std::any_of(host.devices.begin(), host.devices.end(),
                         [&](const auto& device) { return device.second.knows(volume, with); });
    };
    const auto known = served_by_.find(with.device.value);
    if (known != served_by_.end()) return knows(hosts_[known->second]);
    return std::any_of(hosts_.begin(), hosts_.end(), knows);
  });
}

bool World::cut_off(const Copy& copy) const {
  return !copy.own_files && std::ranges::none_of(copy.volumes, [this](const auto& one) {
    return admitted(one.first, one.second);
  });
}

Copy& World::spawn(HostTruth& host, const VmLaunch& launch, CopyState state) {
  VIRGA_CHECK(host.powered && host.copies.count(launch.vm) == 0);
  Copy& copy = host.copies[launch.vm];
  copy.vm = launch.vm;
  copy.epoch = launch.epoch;
  copy.state = state;
  copy.takes = {launch.cpu_millicores, launch.memory_mib};
  copy.cpu_weight = launch.cpu_weight;
  copy.processes_max = launch.processes_max;
  copy.serial = next_serial_++;
  copy.cpus = launch.cpus;
  copy.born = loop_.now();
  copy.own_files = has_files(launch);
  copy.nics = launch.nics;
  if (!launch.nics.empty()) {
    copy.address = launch.nics.front().address.substr(0, launch.nics.front().address.find('/'));
  }
  for (const LaunchDisk& disk : launch.disks) {
    if (!disk.endpoint) continue;
    const VolumeId volume(disk.volume);
    DiskTruth& used = copy.volumes[volume];
    used.legs = {*disk.endpoint};
    if (disk.second) used.legs.push_back(*disk.second);
    used.mirrored = disk.mirrored;
    if (const VolumeTruth* truth = volume_of(*disk.endpoint, &host)) {
      copy.disk_sizes[volume] = truth->size_mib;
    }
  }
  hosts_by_serial_[copy.serial] = host.index;
  if (locks(copy, state)) stored_[copy.vm].lock = copy.serial;
  tell(WorldChange::spawned, host, &copy);
  return copy;
}

Result<void> World::set_state(HostTruth& host, Copy& copy, CopyState to) {
  StoredVm& stored = stored_[copy.vm];
  if (locks(copy, to)) {
    if (stored.lock != 0 && stored.lock != copy.serial) {
      return make_error(Errc::conflict,
                        fmt::format("disk root of vm {} is locked by another copy", copy.vm.value));
    }
    stored.lock = copy.serial;
  } else if (stored.lock == copy.serial) {
    stored.lock = 0;
  }
  guest_writes(host, copy);
  if (to == CopyState::running && copy.answers_at == Instant{}) {
    copy.answers_at = loop_.now() + options_.guest_boot;
  }
  copy.ran = copy.run_time(loop_.now());
  copy.runs_since = loop_.now();
  copy.state = to;
  tell(WorldChange::state, host, &copy);
  return {};
}

void World::end_copy(HostTruth& host, VmId vm, const std::string& why) {
  const auto found = host.copies.find(vm);
  if (found == host.copies.end()) return;
  guest_writes(host, found->second);
  Copy ended = std::move(found->second);
  host.copies.erase(found);
  hosts_by_serial_.erase(ended.serial);
  ended.ran = ended.run_time(loop_.now());
  ended.runs_since = loop_.now();
  ran_[vm] += ended.ran;
  StoredVm& stored = stored_[vm];
  if (stored.lock == ended.serial) stored.lock = 0;
  // A guest that had failed and was then stopped in order has not been lost.
  if (ended.trouble.empty() || why == "stopped") ended.trouble = why;
  tell(WorldChange::ended, host, &ended);
}

Duration World::run_time(const VmId& vm) const {
  const auto before = ran_.find(vm);
  Duration ran = before == ran_.end() ? Duration::zero() : before->second;
  for (const HostTruth& host : hosts_) {
    const auto copy = host.copies.find(vm);
    if (copy != host.copies.end()) ran += copy->second.run_time(loop_.now());
  }
  return ran;
}

Copy* World::find_copy(std::uint64_t serial, HostTruth** host) {
  const auto found = hosts_by_serial_.find(serial);
  if (found == hosts_by_serial_.end()) return nullptr;
  HostTruth& where = hosts_[found->second];
  for (auto& [vm, copy] : where.copies) {
    if (copy.serial != serial) continue;
    *host = &where;
    return &copy;
  }
  return nullptr;
}

void World::set_guest(HostTruth& host, Copy& copy, bool hung, const std::string& trouble) {
  if (hung && !copy.guest_hung) copy.hung_at = loop_.now();
  copy.guest_hung = hung;
  if (!copy.panicked && trouble == kGuestPanicked) {
    copy.ran = copy.run_time(loop_.now());
    copy.panicked = true;
  }
  copy.trouble = trouble;
  tell(WorldChange::guest, host, &copy);
}

void World::power_off(HostTruth& host, const std::string& why) {
  if (!host.powered) return;
  while (!host.copies.empty()) end_copy(host, host.copies.begin()->first, why);
  loop_.drop(host.group);
  for (auto& [directory, device] : host.devices) device.lose_power();
  for (auto& [service, balancer] : host.balancers) balancer.lose_power();
  host.powered = false;
  host.frozen = false;
  host.seen.clear();
  tell(WorldChange::power, host, nullptr);
}

void World::power_on(HostTruth& host) {
  if (host.powered) return;
  host.powered = true;
  ++host.boots;
  host.lease_until = Instant{};
  tell(WorldChange::power, host, nullptr);
}

void World::set_frozen(HostTruth& host, bool frozen) {
  if (!host.powered || host.frozen == frozen) return;
  host.frozen = frozen;
  frozen ? loop_.freeze(host.group) : loop_.thaw(host.group);
  tell(WorldChange::power, host, nullptr);
}

void World::set_links(HostTruth& host, Wire wire, Link link) {
  host.links[static_cast<std::size_t>(wire)] = link;
  tell(WorldChange::links, host, nullptr);
}

void World::set_partition(HostTruth& host, int partition) {
  host.partition = partition;
  tell(WorldChange::links, host, nullptr);
}

void World::tell(WorldChange change, const HostTruth& host, const Copy* copy) {
  mix(static_cast<std::uint64_t>(loop_.now().time_since_epoch().count()));
  mix((static_cast<std::uint64_t>(change) << 32) | host.index);
  if (copy != nullptr) {
    mix(copy->vm.value);
    mix((copy->epoch.counter << 8) | static_cast<std::uint64_t>(copy->state));
  }
  for (const Observer& observer : observers_) observer(change, host, copy);
  if (copy != nullptr && host.listener) host.listener(change, *copy);
}

void World::mix(std::string_view text) {
  for (const char character : text) {
    trace_ = (trace_ ^ static_cast<unsigned char>(character)) * 1099511628211U;
  }
  trace_ = (trace_ ^ 0xff) * 1099511628211U;
}

void World::mix(std::uint64_t number) {
  for (int byte = 0; byte < 8; ++byte) {
    trace_ = (trace_ ^ ((number >> (byte * 8)) & 0xff)) * 1099511628211U;
  }
}

}  // namespace virga::sim
