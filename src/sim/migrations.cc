#include "sim/migrations.h"

#include <fmt/format.h>

namespace virga::sim {
namespace {

constexpr Duration kTick = milliseconds(250);
constexpr Duration kFlush = milliseconds(20);  // the last memory and the devices' state
constexpr Duration kSwitchOver = seconds(9);

}  // namespace

Migrations::Migrations(World& world) : world_(world) {
  world_.observe([this](WorldChange change, const HostTruth&, const Copy* copy) {
    if (change == WorldChange::ended) copy_ended(*copy);
  });
}

void Migrations::begin(HostTruth& host, Copy& source, const MigrationEndpoint& to,
                       const MigrationLimits& limits, Callback<MigrationProgress> done) {
  HostTruth* there = nullptr;
  Copy* incoming = world_.find_copy(std::strtoull(to.secret.c_str(), nullptr, 10), &there);
  const bool open = incoming != nullptr && incoming->state == CopyState::incoming &&
                    incoming->peer == 0 && incoming->vm == source.vm &&
                    there->address == to.address && world_.path(host, *there, Wire::management) &&
                    there->acts();
  if (!open) {
    done(make_error(Errc::unavailable,
                    fmt::format("connect to {}:{}: refused", to.address, to.port)));
    return;
  }
  incoming->peer = source.serial;
  Transfer& transfer = transfers_[source.serial];
  transfer.destination = incoming->serial;
  transfer.limits = limits;
  transfer.progress.remaining_bytes = to_bytes(source.takes.memory_mib);
  transfer.began = transfer.moved = world_.loop().now();
  transfer.done = std::move(done);
  world_.loop().after(kTick, [this, serial = source.serial] { advance(serial); });
}

bool Migrations::connected(std::uint64_t source, const Transfer& transfer) {
  HostTruth* from = nullptr;
  HostTruth* to = nullptr;
  if (world_.find_copy(source, &from) == nullptr) return false;
  const Copy* incoming = world_.find_copy(transfer.destination, &to);
  if (incoming == nullptr || incoming->deaf) return false;
  return from->acts() && to->acts() && world_.path(*from, *to, Wire::management) &&
         world_.path(*to, *from, Wire::management);
}

void Migrations::advance(std::uint64_t source) {
  const auto found = transfers_.find(source);
  if (found == transfers_.end() || found->second.ready) return;
  Transfer& transfer = found->second;
  const Instant now = world_.loop().now();
  if (connected(source, transfer)) {
    const std::int64_t step = std::min(transfer.progress.remaining_bytes.value,
                                       world_.options().migration_mib_per_second * (1 << 18));
    transfer.progress.transferred_bytes.value += step;
    transfer.progress.remaining_bytes.value -= step;
    transfer.progress.passes = 1;
    transfer.moved = now;
  } else if (now - transfer.moved >= transfer.limits.stall_ms_max) {
    fail(source, "no data moved");
    return;
  }
  if (now - transfer.began >= transfer.limits.total_ms_max) return fail(source, "took too long");
  if (transfer.progress.remaining_bytes.value > 0) {
    world_.loop().after(kTick, [this, source] { advance(source); });
    return;
  }
  transfer.ready = true;
  transfer.paused = now;
  HostTruth* host = nullptr;
  Copy* copy = world_.find_copy(source, &host);
  if (auto paused = world_.set_state(*host, *copy, CopyState::paused); !paused) {
    return fail(source, paused.error().text());
  }
  const auto done = std::move(transfer.done);
  transfer.done = nullptr;
  if (done) done(transfer.progress);
}

void Migrations::fail(std::uint64_t source, const std::string& why) {
  const auto found = transfers_.find(source);
  if (found == transfers_.end()) return;
  const Transfer transfer = std::move(found->second);
  transfers_.erase(found);
  HostTruth* host = nullptr;
  if (Copy* copy = world_.find_copy(source, &host); copy && copy->state == CopyState::paused) {
    static_cast<void>(world_.set_state(*host, *copy, CopyState::running));
  }
  // An incoming process whose connection breaks exits, unless it has received everything.
  if (Copy* copy = world_.find_copy(transfer.destination, &host); copy && !copy->received) {
    world_.end_copy(*host, VmId(copy->vm), "migration failed: " + why);
  }
  if (transfer.done) transfer.done(make_error(Errc::unavailable, "migration failed: " + why));
}

void Migrations::copy_ended(const Copy& copy) {
  if (transfers_.count(copy.serial) != 0) return fail(copy.serial, "the source ended");
  for (const auto& [source, transfer] : transfers_) {
    if (transfer.destination == copy.serial) return fail(source, "the destination ended");
  }
}

void Migrations::cancel(std::uint64_t source) { fail(source, "cancelled"); }

void Migrations::lose_owner(std::uint64_t source) {
  const auto found = transfers_.find(source);
  if (found != transfers_.end() && !found->second.passed) fail(source, "its owner is gone");
}

void Migrations::switch_over(Copy& source, Callback<MigrationProgress> done) {
  const auto found = transfers_.find(source.serial);
  if (found == transfers_.end() || !found->second.ready) {
    done(make_error(Errc::conflict, "no migration waits at its switch-over point"));
    return;
  }
  if (std::exchange(found->second.passed, true)) {
    done(make_error(Errc::unavailable, "it is being handed over"));
    return;
  }
  hand_over(source.serial, world_.loop().now() + kSwitchOver, std::move(done));
}

void Migrations::hand_over(std::uint64_t source, Instant until, Callback<MigrationProgress> done) {
  world_.loop().after(kFlush, [this, source, until, done = std::move(done)]() mutable {
    const auto found = transfers_.find(source);
    if (found == transfers_.end()) {
      done(make_error(Errc::unavailable, "migration failed while switching over"));
      return;
    }
    if (connected(source, found->second)) {
      HostTruth* host = nullptr;
      Copy* incoming = world_.find_copy(found->second.destination, &host);
      incoming->received = true;
      HostTruth* there = nullptr;
      if (const Copy* from = world_.find_copy(source, &there); from != nullptr && from->panicked) {
        incoming->panicked = true;
        incoming->trouble = from->trouble;
      }
      confirm(source, std::move(done));
    } else if (world_.loop().now() >= until) {
      fail(source, "connection lost while switching over");
      done(make_error(Errc::unavailable, "connection lost while switching over"));
    } else {
      hand_over(source, until, std::move(done));
    }
  });
}

/// The return path's acknowledgement. When it is lost the source runs on although the destination
/// has everything:
/// the case that the record of the migration must decide.
void Migrations::confirm(std::uint64_t source, Callback<MigrationProgress> done) {
  world_.loop().after(kFlush, [this, source, done = std::move(done)] {
    const auto found = transfers_.find(source);
    HostTruth* host = nullptr;
    Copy* copy = world_.find_copy(source, &host);
    if (found == transfers_.end() || copy == nullptr) {
      done(make_error(Errc::unavailable, "migration failed while switching over"));
      return;
    }
    if (!connected(source, found->second)) {
      fail(source, "no acknowledgement from the destination");
      done(make_error(Errc::unavailable, "no acknowledgement from the destination"));
      return;
    }
    MigrationProgress progress = found->second.progress;
    // Whole milliseconds, as QEMU tells and messages carry it.
    progress.downtime_ms = milliseconds(to_ms(world_.loop().now() - found->second.paused));
    progress.handed_over = true;
    transfers_.erase(found);
    static_cast<void>(world_.set_state(*host, *copy, CopyState::postmigrate));
    done(progress);
  });
}

MigrationProgress Migrations::progress(std::uint64_t source) const {
  const auto found = transfers_.find(source);
  return found == transfers_.end() ? MigrationProgress{} : found->second.progress;
}

}  // namespace virga::sim
