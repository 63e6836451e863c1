#include "sim/sim_block_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "driver/volume_rules.h"

namespace virga::sim {
namespace {

constexpr Duration kFileTakes = milliseconds(5);
constexpr Duration kServerTakes = milliseconds(70);
constexpr Duration kObeyWithin = seconds(1);

Error not_whole(const VolumeId& volume, const VolumeTruth& truth) {
  const std::string how =
      truth.source.empty() ? "filled from " + truth.image : "copied from " + truth.source.value;
  return make_error(Errc::unavailable, volume.value + " is being " + how);
}

bool whole(const VolumeTruth& truth) { return truth.source.empty() && truth.image.empty(); }

/// A server that has just been started, or has obeyed, lets in whom the record knows.
void serve(VolumeTruth& truth) {
  truth.hangs = false;
  truth.exports = truth.attachments;
}

/// Of any volume: two seconds at the usual 100 MiB/s.
Duration copying_takes(Mib per_second) {
  return milliseconds(200'000 / std::max<std::int64_t>(per_second.value, 1));
}

}  // namespace

const VolumeTruth* DeviceTruth::admit(const VolumeEndpoint& with, std::int64_t end) const {
  for (const auto& [id, truth] : volumes) {
    if (truth.hangs || end > to_bytes(truth.size_mib).value) continue;
    for (const auto& [epoch, at] : truth.exports) {
      const bool same = at.port == with.port && at.export_name == with.export_name &&
                        at.address == with.address && at.user == with.user && at.key == with.key;
      if (same) return &truth;
    }
  }
  return nullptr;
}

bool DeviceTruth::write(const VolumeEndpoint& with, std::int64_t offset, std::int64_t bytes,
                        int value) {
  const VolumeTruth* found = admit(with, offset + bytes);
  if (found == nullptr) return false;
  for (auto& [id, truth] : volumes) {
    if (&truth != found) continue;
    for (std::int64_t at = offset; at < offset + bytes; at += kBlockBytes) {
      truth.blocks[at / kBlockBytes] = value;
    }
  }
  return true;
}

std::optional<int> DeviceTruth::read(const VolumeEndpoint& with, std::int64_t offset,
                                     std::int64_t bytes) const {
  const VolumeTruth* truth = admit(with, offset + bytes);
  if (truth == nullptr) return std::nullopt;
  std::optional<int> all;
  for (std::int64_t at = offset; at < offset + bytes; at += kBlockBytes) {
    const auto block = truth->blocks.find(at / kBlockBytes);
    const int value = block == truth->blocks.end() ? 0 : block->second;
    if (all.value_or(value) != value) return std::nullopt;
    all = value;
  }
  return all;
}

bool DeviceTruth::knows(const VolumeId& volume, const VolumeEndpoint& with) const {
  const auto found = volumes.find(volume);
  if (found == volumes.end()) return false;
  const auto& all = found->second.attachments;
  return std::any_of(all.begin(), all.end(), [&](const auto& one) {
    return one.second.address == with.address && one.second.export_name == with.export_name;
  });
}

void DeviceTruth::lose_power() {
  for (auto& [id, truth] : volumes) {
    truth.hangs = false;
    truth.exports.clear();
  }
}

void DeviceTruth::kill_server(const VolumeId& volume) {
  VolumeTruth& truth = volumes.at(volume);
  truth.hangs = false;
  truth.exports.clear();
  if (on_server_ended) on_server_ended(volume);
}

RealSpace DeviceTruth::space() const {
  constexpr Bytes kSize = to_bytes(Mib{100'000});
  if (full) return {kSize, {}};
  Bytes used;
  for (const auto& [id, truth] : volumes) {
    used += Bytes{static_cast<std::int64_t>(truth.blocks.size()) * kBlockBytes};
  }
  return {kSize, kSize - used};
}

Result<void> SimBlockStore::check_room(const VolumeId& volume, Mib more) const {
  if (to_bytes(more) <= device_.space().free || more <= Mib()) return {};
  return make_error(Errc::exhausted, volume.value + " needs more than is free below its device");
}

SimBlockStore::SimBlockStore(Loop& agent, DeviceTruth& device) : agent_(agent), device_(device) {
  device_.on_server_ended = [this](const VolumeId& volume) {
    later(volume, kServerTakes, [this, volume] {
      if (const auto truth = find(volume)) serve(**truth);
      begin_copies_of(volume);
    });
  };
}

SimBlockStore::~SimBlockStore() { device_.on_server_ended = nullptr; }

void SimBlockStore::later(const VolumeId& volume, Duration takes, Task task) {
  Instant& until = busy_until_[volume];
  until = std::max(until, agent_.now()) + takes;
  agent_.at(until, [task = std::move(task), alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) task();
  });
}

Result<VolumeTruth*> SimBlockStore::find(const VolumeId& volume) {
  const auto found = device_.volumes.find(volume);
  if (found != device_.volumes.end()) return &found->second;
  return make_error(Errc::not_found, "there is no volume \"" + volume.value + "\" on this device");
}

/// How long a change of whom the server lets in takes: one that hangs is killed after a second.
Duration SimBlockStore::obedience(const VolumeId& volume) const {
  const auto found = device_.volumes.find(volume);
  const bool hangs = found != device_.volumes.end() && found->second.hangs;
  return kFileTakes + (hangs ? kObeyWithin : Duration(0));
}

void SimBlockStore::open(Callback<void> done) {
  later(VolumeId(), kServerTakes, [this, done = std::move(done)] {
    for (auto& [id, truth] : device_.volumes) {
      if (!truth.hangs) serve(truth);
      if (!truth.source.empty()) begin_copy(id);
      if (!truth.image.empty()) begin_fill(id);
    }
    done({});
  });
}

void SimBlockStore::create(const VolumeId& volume, Mib size_mib, const Epoch& revoked,
                           Callback<void> done) {
  later(volume, kFileTakes, [this, volume, size_mib, revoked, done = std::move(done)] {
    if (auto fine = check_volume_id(volume); !fine) return done(std::move(fine));
    if (auto fine = check_volume_size(size_mib); !fine) return done(std::move(fine));
    const auto there = find(volume);
    if (there && (*there)->floor != revoked) {
      return done(make_error(Errc::conflict, volume.value + " is there and another volume"));
    }
    if (there && (*there)->size_mib != size_mib) {
      return done(make_error(Errc::conflict, fmt::format("{} is there with {} MiB", volume.value,
                                                         (*there)->size_mib.value)));
    }
    if (auto fits = check_room(volume, size_mib); !there && !fits) return done(std::move(fits));
    if (!there) device_.volumes[volume] = {size_mib, revoked, {}, {}, false, {}, revoked, {}, 0};
    done({});
  });
}

void SimBlockStore::create_from_image(const VolumeId& volume, Mib size_mib, const ImageDisk& image,
                                      const Epoch& revoked, Callback<void> done) {
  later(volume, kFileTakes, [this, volume, size_mib, image, revoked, done = std::move(done)] {
    if (auto fine = check_volume_id(volume); !fine) return done(std::move(fine));
    if (auto fine = check_volume_size(size_mib); !fine) return done(std::move(fine));
    if (const auto there = find(volume)) {
      if ((*there)->floor == revoked) return done({});
      return done(make_error(Errc::conflict, volume.value + " is there and another volume"));
    }
    if (auto fits = check_room(volume, size_mib); !fits) return done(std::move(fits));
    VolumeTruth made;
    made.size_mib = size_mib;
    made.revoked = made.floor = revoked;
    made.image = image.path;
    device_.volumes[volume] = std::move(made);
    begin_fill(volume);
    done({});
  });
}

/// An image that is not there is looked for again.
void SimBlockStore::begin_fill(const VolumeId& volume) {
  const std::uint64_t number = ++copying_[volume];
  agent_.after(copying_takes(copied_per_second_),
               [this, volume, number, alive = std::weak_ptr(alive_)] {
                 if (alive.expired() || copying_[volume] != number) return;
                 const auto filled = find(volume);
                 if (!filled) return;
                 const auto image = device_.images.find((*filled)->image);
                 if (image == device_.images.end()) return begin_fill(volume);
                 (*filled)->blocks = image->second;
                 (*filled)->image.clear();
               });
}

void SimBlockStore::copy(const VolumeId& volume, const VolumeId& source, const Epoch& revoked,
                         Callback<void> done) {
  later(volume, kFileTakes, [this, volume, source, revoked, done = std::move(done)] {
    if (auto fine = check_volume_id(volume); !fine) return done(std::move(fine));
    if (const auto there = find(volume)) {
      if ((*there)->floor == revoked) return done({});
      return done(make_error(Errc::conflict, volume.value + " is there and another volume"));
    }
    const auto from = find(source);
    if (!from) return done(from.error());
    if (!whole(**from)) return done(not_whole(source, **from));
    VolumeTruth made;
    made.size_mib = (*from)->size_mib;
    made.revoked = made.floor = revoked;
    made.source = source;
    device_.volumes[volume] = std::move(made);
    begin_copy(volume);
    done({});
  });
}

/// With what its source holds now; one that began before is forgotten.
void SimBlockStore::begin_copy(const VolumeId& volume) {
  const auto truth = find(volume);
  const auto from = find((*truth)->source);
  if (!from) return;
  (*truth)->size_mib = (*from)->size_mib;
  (*truth)->blocks = (*from)->blocks;
  (*truth)->written = (*from)->written;
  (*truth)->taken_at = agent_.wall_now();
  const std::uint64_t number = ++copying_[volume];
  agent_.after(copying_takes(copied_per_second_),
               [this, volume, number, alive = std::weak_ptr(alive_)] {
                 if (alive.expired() || copying_[volume] != number) return;
                 if (const auto copied = find(volume)) (*copied)->source = VolumeId();
               });
}

void SimBlockStore::begin_copies_of(const VolumeId& source) {
  for (const auto& [id, truth] : device_.volumes) {
    if (truth.source == source) begin_copy(id);
  }
}

const VolumeId* SimBlockStore::copy_of(const VolumeId& source) const {
  for (const auto& [id, truth] : device_.volumes) {
    if (truth.source == source) return &id;
  }
  return nullptr;
}

void SimBlockStore::grow(const VolumeId& volume, Mib size_mib, Callback<void> done) {
  later(volume, kServerTakes, [this, volume, size_mib, done = std::move(done)] {
    const auto truth = find(volume);
    if (!truth) return done(truth.error());
    if (!whole(**truth)) return done(not_whole(volume, **truth));
    if (auto fine = check_growth(volume, (*truth)->size_mib, size_mib); !fine) {
      return done(std::move(fine));
    }
    if (auto fits = check_room(volume, size_mib - (*truth)->size_mib); !fits) {
      return done(std::move(fits));
    }
    (*truth)->size_mib = size_mib;
    serve(**truth);
    begin_copies_of(volume);
    done({});
  });
}

void SimBlockStore::erase(const VolumeId& volume, Callback<void> done) {
  later(volume, kFileTakes, [this, volume, done = std::move(done)] {
    const auto truth = find(volume);
    if (truth && !(*truth)->attachments.empty()) {
      return done(
          make_error(Errc::conflict, "erase " + volume.value + ": is attached; revoke it first"));
    }
    if (const VolumeId* copy = copy_of(volume)) {
      return done(make_error(Errc::conflict, fmt::format("erase {}: {} is being copied from it",
                                                         volume.value, copy->value)));
    }
    ++copying_[volume];
    device_.volumes.erase(volume);
    done({});
  });
}

Result<VolumeEndpoint> SimBlockStore::let_in(const VolumeId& volume, VolumeTruth& truth,
                                             const Epoch& epoch, const Epoch& beside) {
  auto& all = truth.attachments;
  std::vector<Epoch> attached;
  for (const auto& [other, at] : all) attached.push_back(other);
  const auto admission = admit(volume, {truth.revoked, truth.highest, attached}, epoch, beside);
  if (!admission) return admission.error();
  if (*admission == Admission::attached) return all.at(epoch);
  truth.highest = epoch;
  const std::uint64_t serial = ++device_.serial;
  const int port = all.empty() ? static_cast<int>(10'000 + serial) : all.begin()->second.port;
  all[epoch] = {"nbd",
                device_.address,
                port,
                fmt::format("{}-{}-{:032x}", volume.value, to_string(epoch), serial),
                fmt::format("e{}", epoch.counter),
                fmt::format("{:064x}", serial)};
  return all[epoch];
}

void SimBlockStore::attach(const VolumeId& volume, const Epoch& epoch, const Epoch& beside,
                           Callback<VolumeEndpoint> done) {
  later(volume, kServerTakes + obedience(volume),
        [this, volume, epoch, beside, done = std::move(done)] {
          const auto truth = find(volume);
          if (!truth) return done(truth.error());
          if (!whole(**truth)) return done(not_whole(volume, **truth));
          auto at = let_in(volume, **truth, epoch, beside);
          if (at) serve(**truth);
          done(std::move(at));
        });
}

void SimBlockStore::revoke(const VolumeId& volume, const Epoch& epoch, Callback<void> done) {
  later(volume, obedience(volume), [this, volume, epoch, done = std::move(done)] {
    const auto truth = find(volume);
    if (!truth) return done(truth.error());
    (*truth)->revoked = std::max((*truth)->revoked, epoch);
    std::erase_if((*truth)->attachments, [&](const auto& one) { return one.first <= epoch; });
    serve(**truth);
    done({});
  });
}

void SimBlockStore::detach(const VolumeId& volume, const Epoch& epoch, Callback<void> done) {
  later(volume, obedience(volume), [this, volume, epoch, done = std::move(done)] {
    const auto truth = find(volume);
    if (!truth) return done({});
    (*truth)->highest = std::max((*truth)->highest, epoch);
    (*truth)->attachments.erase(epoch);
    serve(**truth);
    done({});
  });
}

std::vector<ObservedVolume> SimBlockStore::observe() const {
  std::vector<ObservedVolume> seen;
  for (const auto& [id, truth] : device_.volumes) {
    ObservedVolume one;
    one.volume = id;
    one.size_mib = truth.size_mib;
    one.used_bytes = {static_cast<std::int64_t>(truth.blocks.size()) * DeviceTruth::kBlockBytes};
    one.revoked = truth.revoked;
    one.floor = truth.floor;
    for (const auto& [epoch, at] : truth.attachments) one.epochs.push_back(epoch);
    one.served = !truth.exports.empty();
    one.source = truth.source;
    one.taken_at = truth.taken_at;
    one.image = truth.image;
    seen.push_back(std::move(one));
  }
  return seen;
}

}  // namespace virga::sim
