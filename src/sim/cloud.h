#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "base/rng.h"
#include "model/cluster.h"
#include "model/event.h"
#include "model/keys.h"
#include "model/vm.h"
#include "sim/agent_run.h"
#include "sim/checker.h"
#include "sim/network.h"
#include "sim/server_run.h"
#include "sim/world.h"

namespace virga::sim {

struct CloudOptions {
  std::uint64_t seed = 1;
  ClusterPolicy policy;
  WorldOptions world;
  NetworkOptions network;
  MemoryStoreOptions store;
  bool metering = false;   ///< off: a message less for each host in ten seconds
  Duration supervisor{0};  ///< killed programs are started again after this; 0 = only when healed
};

enum class FaultKind {
  power,        ///< the machine loses power
  hang,         ///< the whole machine stands still
  link,         ///< one of its networks is cut, both directions
  link_out,     ///< ... what it sends is lost
  link_in,      ///< ... what is sent to it is lost
  agent,        ///< its agent is killed
  agent_stop,   ///< its agent stands still
  leash,        ///< its leash is killed
  leash_stop,   ///< its leash stands still
  qemu,         ///< VM processes are killed
  deaf,         ///< VM processes ignore QMP
  guest_hang,   ///< guests stand still
  panic,        ///< guests panic
  disk_full,    ///< no space below the VMs' folders
  device_full,  ///< ... below its storage devices
  starts,       ///< the next three VM starts fail
  clock,        ///< its clock jumps forward by a minute
  drift,        ///< its clock loses one per cent
};
BOOST_DESCRIBE_ENUM(FaultKind, power, hang, link, link_out, link_in, agent, agent_stop, leash,
                    leash_stop, qemu, deaf, guest_hang, panic, disk_full, device_full, starts,
                    clock, drift)

struct Fault {
  FaultKind kind = FaultKind::power;
  HostId host;
  Wire wire = Wire::management;
  VmId vm;  ///< of qemu, deaf, guest_hang, panic; empty = all on the host
};

/// A whole simulated cloud: one real server core, one real agent core and leash a host, joined by the simulated
/// network, over simulated machines. Owned and driven from outside the simulation.
class Cloud {
 public:
  Cloud(SimLoop& loop, CloudOptions options);
  ~Cloud();

  World& world() { return world_; }
  Checker& checker() { return checker_; }
  MessageNetwork& network() { return network_; }
  SimLoop& loop() { return loop_; }
  Instant now() const { return loop_.now(); }
  const CloudOptions& options() const { return options_; }

  HostTruth& add_host(const HostId& id, Capacity capacity);
  void start();

  void start_server();
  void kill_server();
  void freeze_server(bool frozen);
  bool server_runs() const { return server_ != nullptr; }
  ServerRun* server() { return server_.get(); }

  /// What the store held then; restore() puts it back as `virga restore` does and raises the incarnation.
  void backup();
  void restore();

  void apply(const Fault& fault);
  /// Everything that apply() and the BMC did to this host is made good; a machine that is off boots.
  void heal(HostTruth& host);
  void power_off(HostTruth& host, const std::string& why);
  void power_on(HostTruth& host);  ///< its programs run `host_boot` later
  void kill_vms(HostTruth& host, const VmId& only);

  /// Desired state, written as the API writes it; tried again until the store takes it.
  template <typename T>
  void edit(const typename std::decay_t<decltype(std::declval<T>().id())>& id,
            std::function<void(T&)> change) {
    write(keys::of(id), [change = std::move(change)](const std::string& before) {
      T resource = before.empty() ? T{} : from_json_text<T>(before, UnknownFields::ignore).value();
      ++resource.meta.generation;
      change(resource);
      return to_json_text(resource);
    });
  }
  void remove(std::string key) {
    write(std::move(key), [](const std::string&) { return std::nullopt; });
  }
  template <typename T>
  std::optional<T> read(const std::string& key) const {
    const auto entry = disk_->state.find(key);
    if (entry == nullptr) return std::nullopt;
    return from_json_text<T>(entry->value, UnknownFields::ignore).value();
  }
  template <typename T>
  std::vector<T> read_all(std::string_view prefix) const {
    std::vector<T> all;
    for (const std::string& text : values_below(prefix)) {
      all.push_back(from_json_text<T>(text, UnknownFields::ignore).value());
    }
    return all;
  }

  const std::vector<Event>& events() const { return events_; }
  const metering::MemoryUsage& usage() const { return *usage_; }

  const HostNetworks& networks(const HostTruth& host) const {
    return programs_[host.index]->networks;
  }

  /// VMs that should run and do not run in exactly one place with the epoch in force, and hosts whose networks lead to
  /// where a VM is not; one sentence each.
  std::vector<std::string> unsettled();

  /// As long as this stays the same, so does what crossed() and exported() find.
  std::pair<Revision, std::uint64_t> changes() const;

  /// Hosts that lead a port's frames over another network than its own, which may be another tenant's; one sentence
  /// each. There is none at any moment, whatever fails.
  std::vector<std::string> crossed();

  /// Whether the regions of its tenant and its volumes allow it.
  bool may_be_on(const VmId& vm, const HostId& host);

  /// Hosts that hold a volume outside the regions that its tenant and it allow; one sentence each.
  std::vector<std::string> exported();

  /// Over all that ever changed, all events and the whole stored state.
  std::uint64_t state_hash();

 private:
  std::vector<std::string> unserved();
  std::vector<std::string> unguarded();
  std::vector<std::string> misled();

  struct Programs {
    std::unique_ptr<SimProcess> clock;  ///< the host's; its programs follow it
    std::unique_ptr<Leash> leash;
    std::unique_ptr<AgentRun> agent;
    HostNetworks networks;  ///< lost with the power, kept over a restart of the agent
    bool agent_stopped = false;
    bool leash_stopped = false;
    bool fed = true;               ///< its watchdog
    std::uint64_t fed_runs = 0;    ///< changes whenever `fed` does
    std::uint64_t power_runs = 0;  ///< changes whenever its power is switched
  };

  /// nullopt = the key goes.
  using Rewrite = std::function<std::optional<std::string>(const std::string& before)>;
  void write(std::string key, Rewrite rewrite);
  std::vector<std::string> values_below(std::string_view prefix) const;
  Records records();
  std::optional<std::set<std::string>> allowed_regions(const std::string& tenant,
                                                       const std::vector<VolumeId>& volumes) const;
  Programs& programs(const HostTruth& host) { return *programs_[host.index]; }
  void start_agent(HostTruth& host);
  void kill_agent(HostTruth& host);
  void start_leash(HostTruth& host);
  void kill_leash(HostTruth& host);
  void apply_to_machine(HostTruth& host, const Fault& fault);
  void apply_to_programs(HostTruth& host, FaultKind kind);
  void apply_to_guests(HostTruth& host, const Fault& fault);
  Instant watchdog_due(const HostTruth& host) const;
  void programs_changed(HostTruth& host);
  void try_write(const std::string& key, const Rewrite& rewrite);
  void lease_granted(HostTruth& host, const LeaseGrant& grant);
  void take_event(const Event& event);

  SimLoop& loop_;
  CloudOptions options_;
  Rng rng_;
  World world_;
  Migrations migrations_;
  MessageNetwork network_;
  Checker checker_;
  std::shared_ptr<MemoryDisk> disk_ = std::make_shared<MemoryDisk>();
  JournalDisk journal_;
  std::shared_ptr<metering::MemoryUsage> usage_ = std::make_shared<metering::MemoryUsage>();
  std::vector<std::unique_ptr<Programs>> programs_;
  std::unique_ptr<ServerRun> server_;
  std::vector<Event> events_;
  std::vector<KeyValue> backup_;
};

}  // namespace virga::sim
