#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "driver/block_store.h"
#include "driver/contract.h"

/// The promises of BlockStore as tests. A test program makes a BlockStoreLab for its implementation, includes
/// block_store_contract_tests.h in one file and instantiates the suite there.
namespace virga {

/// What a consumer does with a volume, one after the other.
struct ConsumerStep {
  enum class Kind { read, write, pause };
  Kind kind = Kind::read;
  int value = 0;  ///< that fills, or has to fill, all of the range
  std::int64_t offset = 0;
  std::int64_t bytes = 0;  ///< whole 64 KiB
  Duration pause{0};

  static ConsumerStep reads(int value, std::int64_t offset, std::int64_t bytes) {
    return {Kind::read, value, offset, bytes, Duration(0)};
  }
  static ConsumerStep writes(int value, std::int64_t offset, std::int64_t bytes) {
    return {Kind::write, value, offset, bytes, Duration(0)};
  }
  static ConsumerStep pauses(Duration span) { return {Kind::pause, 0, 0, 0, span}; }
};

/// One device, open, without volumes.
class BlockStoreLab {
 public:
  virtual ~BlockStoreLab() = default;

  virtual BlockStore& store() = 0;

  /// Ends the agent and starts another on the same device; what serves volumes lives on.
  virtual void restart_agent() = 0;

  /// Of stores whose volumes are served by a process of this machine: the suite BlockServerContract.
  virtual void kill_server(const VolumeId&) {}
  virtual void hang_server(const VolumeId&) {}

  /// A consumer opens the volume and takes its steps, beside this test; one at a time.
  virtual void use_meanwhile(const VolumeEndpoint& at, const std::vector<ConsumerStep>& steps) = 0;

  /// Waits for its end, 10 s at most, and ends it then. True when all steps succeeded.
  virtual bool used() = 0;

  /// For how long a consumer pauses, so that what a test does meanwhile is over when it goes on.
  virtual Duration pause() const { return milliseconds(1500); }

  /// On the device, read from beside.
  virtual int first_byte(const VolumeId& volume) = 0;

  /// Of stores that fill volumes from images: one with a disk of 8 MiB, of which the second is filled with `value`; the
  /// suite BlockImageContract.
  virtual ImageDisk image(int /*value*/) { return {}; }

  /// What is left of a volume: files, processes. Empty = nothing.
  virtual std::vector<std::string> leftovers(const VolumeId& volume) = 0;

  virtual bool run_until(const std::function<bool()>& condition, Duration deadline) = 0;
};

using MakeBlockStoreLab = std::unique_ptr<BlockStoreLab> (*)();

class BlockStoreContract : public testing::TestWithParam<MakeBlockStoreLab> {
 protected:
  template <typename T>
  Result<T> wait(const std::function<void(Callback<T>)>& call) {
    auto outcome = std::make_shared<std::optional<Result<T>>>();
    call([outcome](Result<T> result) {
      EXPECT_FALSE(outcome->has_value()) << "completed twice";
      outcome->emplace(std::move(result));
    });
    EXPECT_FALSE(outcome->has_value()) << "completed before the call returned";
    if (!lab->run_until([&] { return outcome->has_value(); }, seconds(10))) {
      return make_error(Errc::internal, "the call did not complete within its deadline");
    }
    return **outcome;
  }

  Result<void> create(const std::string& name = "acme/data", std::int64_t size_mib = 16,
                      std::uint64_t revoked = 0) {
    return wait<void>([&](Callback<void> done) {
      lab->store().create(VolumeId(name), Mib{size_mib}, {1, revoked}, std::move(done));
    });
  }
  Result<void> create_from(const ImageDisk& image, std::uint64_t revoked) {
    return wait<void>([&](Callback<void> done) {
      lab->store().create_from_image(data, Mib{16}, image, {1, revoked}, std::move(done));
    });
  }
  Result<void> copy(const std::string& name = "acme/monday", std::uint64_t revoked = 0) {
    return wait<void>([&](Callback<void> done) {
      lab->store().copy(VolumeId(name), data, {1, revoked}, std::move(done));
    });
  }
  Result<void> grow(std::int64_t size_mib) {
    return wait<void>(
        [&](Callback<void> done) { lab->store().grow(data, Mib{size_mib}, std::move(done)); });
  }
  Result<void> erase(const std::string& name = "acme/data") {
    return wait<void>(
        [&](Callback<void> done) { lab->store().erase(VolumeId(name), std::move(done)); });
  }
  Result<VolumeEndpoint> attach(std::uint64_t epoch, std::uint64_t beside = 0,
                                const std::string& name = "acme/data") {
    return wait<VolumeEndpoint>([&](Callback<VolumeEndpoint> done) {
      lab->store().attach(VolumeId(name), {1, epoch}, {1, beside}, std::move(done));
    });
  }
  Result<void> revoke(std::uint64_t epoch) {
    return wait<void>(
        [&](Callback<void> done) { lab->store().revoke(data, {1, epoch}, std::move(done)); });
  }
  Result<void> detach(std::uint64_t epoch) {
    return wait<void>(
        [&](Callback<void> done) { lab->store().detach(data, {1, epoch}, std::move(done)); });
  }
  Result<void> release(std::uint64_t epoch) {
    return wait<void>(
        [&](Callback<void> done) { lab->store().release(data, {1, epoch}, std::move(done)); });
  }

  ObservedVolume seen(const std::string& name = "acme/data") const {
    for (const ObservedVolume& one : lab->store().observe()) {
      if (one.volume.value == name) return one;
    }
    return {};
  }
  bool becomes_whole(const std::string& name = "acme/monday") {
    return lab->run_until(
        [&] {
          const ObservedVolume one = seen(name);
          return !one.volume.empty() && one.whole();
        },
        seconds(15));
  }
  bool has_begun(const std::string& name = "acme/monday") {
    return lab->run_until([&] { return seen(name).taken_at.has_value(); }, seconds(10));
  }

  using Step = ConsumerStep;

  bool use(const VolumeEndpoint& at, const std::vector<ConsumerStep>& steps) {
    lab->use_meanwhile(at, steps);
    return lab->used();
  }

  static constexpr std::int64_t kBlock = 64 << 10;
  static constexpr std::int64_t kMib = 1 << 20;
  const VolumeId data{"acme/data"};
  std::unique_ptr<BlockStoreLab> lab = GetParam()();
  const BlockStoreCapabilities can = lab->store().capabilities();
};

/// What stores besides promise that serve volumes by a process of their own.
class BlockServerContract : public BlockStoreContract {};

/// What stores besides promise that copy volumes.
class BlockCopyContract : public BlockStoreContract {};

/// What stores besides promise that fill volumes from images.
class BlockImageContract : public BlockStoreContract {};

/// What stores besides promise that can cut consumers off; and those that cannot.
class BlockFenceContract : public BlockStoreContract {};
class BlockNoFenceContract : public BlockStoreContract {};

}  // namespace virga
