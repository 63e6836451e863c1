#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "agent/agent_core.h"
#include "driver/null_fabric.h"

/// What an agent core needs around it, at its plainest, for tests: everything succeeds at once and is remembered.
namespace virga::test {

class FakeHypervisor : public Hypervisor {
 public:
  void open(HypervisorSink&, Callback<HypervisorInfo> done) override { done(HypervisorInfo()); }
  void start(const VmLaunch& launch, Callback<void> done) override {
    ObservedVm copy;
    copy.vm = launch.vm;
    copy.epoch = launch.epoch;
    copy.power = VmPower::running;
    copies[launch.vm] = copy;
    launches.push_back(launch);
    done({});
  }
  void stop(const VmId& vm, const Epoch&, const StopOptions&, Callback<void> done) override {
    copies.erase(vm);
    stops_take_long ? void(stopping = std::move(done)) : done({});
  }
  void erase(const VmLaunch&, Callback<void> done) override { done({}); }
  void prepare_incoming(const VmLaunch&, Callback<MigrationEndpoint> done) override {
    done(MigrationEndpoint());
  }
  void send(const VmId&, const Epoch&, const MigrationEndpoint&, const MigrationLimits&,
            Callback<MigrationProgress> done) override {
    if (!sends_take_long) return done(sent);
    sending = std::move(done);
  }
  void switch_over(const VmId&, const Epoch&, Callback<MigrationProgress> done) override {
    done(MigrationProgress());
  }
  void resume(const VmId&, const Epoch&, Callback<void> done) override { done({}); }
  void cancel_send(const VmId&, const Epoch&, Callback<void> done) override { done({}); }
  void grow_disk(const VmId&, const Epoch&, const std::string& volume,
                 Callback<void> done) override {
    mirrors.push_back("grow " + volume);
    done({});
  }
  void keep_leg(const VmId&, const Epoch&, const std::string& volume, const DeviceId& device,
                Callback<void> done) override {
    mirrors.push_back("keep " + volume + " on " + device.value);
    done({});
  }
  void mirror_disk(const VmId&, const Epoch&, const DiskMirror& mirror,
                   Callback<MigrationProgress> done) override {
    mirrors.push_back("mirror " + mirror.volume);
    if (!sends_take_long) return done(sent);
    sending = std::move(done);
  }
  void switch_disk(const VmId&, const Epoch&, const std::string& volume,
                   Callback<void> done) override {
    mirrors.push_back("switch " + volume);
    done({});
  }
  void cancel_mirror(const VmId&, const Epoch&, const std::string& volume,
                     Callback<void> done) override {
    mirrors.push_back("cancel " + volume);
    done({});
  }
  Result<void> change_limits(const VmLaunch& launch) override {
    if (!copies.contains(launch.vm)) return make_error(Errc::not_found, "no such copy");
    limited.push_back(launch);
    return {};
  }
  MigrationProgress progress(const VmId&) const override { return sent; }
  std::vector<ObservedVm> observe() const override {
    std::vector<ObservedVm> seen;
    for (const auto& [id, copy] : copies) seen.push_back(copy);
    return seen;
  }
  Result<std::string> console_tail(const VmId&, std::size_t) const override {
    return std::string("tail");
  }

  std::map<VmId, ObservedVm> copies;
  std::vector<VmLaunch> launches;
  std::vector<std::string> mirrors;
  std::vector<VmLaunch> limited;  ///< what change_limits was asked for
  bool stops_take_long = false;
  Callback<void> stopping;  ///< of the last stop that takes long: the test ends it
  bool sends_take_long = false;
  Callback<MigrationProgress> sending;  ///< of the last send that takes long: the test ends it
  MigrationProgress sent;
};

class FakeGuard : public ProcessGuard {
 public:
  Result<void> guard(const std::string&, int) override { return {}; }
  void release(const std::string&) override {}
  void extend(Instant until, Duration) override { deadline = until; }
  Instant held_until() const override { return deadline; }
  bool armed() const override { return true; }
  Instant deadline;
};

/// Any keyed digest serves here: what counts is that another key gives another one.
inline std::string digest(const std::string& key, const std::string& data) {
  return key + ":" + std::to_string(std::hash<std::string>()(key + data));
}

class FakeLink : public AgentLink, public PeerLink {
 public:
  void send(AgentMessage message) override { sent.push_back(std::move(message)); }
  void upload(std::uint64_t command, std::string text, Callback<void> done) override {
    uploads.emplace_back(command, std::move(text));
    done(upload_result);
  }
  void reconnect() override { ++reconnects; }
  void send(const ClusterMember& to, const PeerProbe& probe, const std::string& key) override {
    datagrams.emplace_back(to.address, encode_probe(probe, key, digest));
  }
  std::vector<AgentMessage> sent;
  std::vector<std::pair<std::string, std::string>> datagrams;
  std::vector<std::pair<std::uint64_t, std::string>> uploads;
  Result<void> upload_result;
  int reconnects = 0;
};

}  // namespace virga::test
