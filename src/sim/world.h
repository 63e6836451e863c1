#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "driver/bmc.h"
#include "driver/fabric.h"
#include "driver/hypervisor.h"
#include "sim/copy_truth.h"
#include "sim/sim_block_store.h"
#include "sim/sim_load_balancer.h"
#include "sim/sim_loop.h"

/// Ground truth of the simulated cloud: what really runs, is powered, locked and connected. The programs under test
/// see it only through the simulated drivers; the checker reads nothing else.
namespace virga::sim {

enum class Wire { management, storage, tenant };
BOOST_DESCRIBE_ENUM(Wire, management, storage, tenant)
constexpr std::size_t kWires = 3;

/// One direction of a host's links; both are up in a healthy host.
struct Link {
  bool in = true;
  bool out = true;
};

enum class BmcMode {
  answers,
  silent,  ///< no answer at all
  lies,    ///< says that it did what it was asked; does nothing
  slow,    ///< answers after 4 s
};
BOOST_DESCRIBE_ENUM(BmcMode, answers, silent, lies, slow)

enum class WorldChange {
  spawned,  ///< a copy's process exists
  state,    ///< a copy's state changed
  ended,    ///< a copy's process is gone
  power,    ///< a host was switched, froze or thawed
  links,    ///< a host's links changed
  guest,    ///< a guest hangs, panics or answers again
};

struct HostTruth {
  // What every packet reads stands together.
  std::string address;  ///< of its agent and probes, unique
  std::size_t index = 0;
  std::array<Link, kWires> links;
  int partition = 0;  ///< hosts and server reach one another only within the same number
  bool powered = true;
  HostId id;
  SimLoop::Group group =
      0;  ///< of what its processes do by themselves: frozen and dropped with the machine
  Capacity capacity;
  bool booting = false;  ///< switched on, nothing runs yet
  bool frozen = false;   ///< the whole machine stands still
  bool watchdog = true;  ///< something outside resets it when its leash stops feeding
  bool disk_full = false;
  BmcMode bmc = BmcMode::answers;
  std::uint64_t lied_boot = 0;  ///< the boot during which its BMC told a lie last
  std::uint64_t boots = 1;
  std::uint64_t starts_failing = 0;  ///< so many of the next VM starts fail
  std::map<VmId, Copy> copies;
  std::map<std::string, DeviceTruth> devices;  ///< by directory
  std::map<ServiceId, BalancerTruth> balancers;
  std::map<ServiceId, BalancerLeg> balancer_legs;  ///< that its disk remembers
  std::map<VmId, Epoch> seen;  ///< highest epoch per VM since this boot, survives its agent
  Instant
      lease_until{};  ///< until when, in true time, the last grant that its agent received allows guests
  std::function<void(WorldChange, const Copy&)>
      listener;  ///< its hypervisor driver, while its agent lives

  std::string region;  ///< where it stands

  std::string boot_id() const { return id.value + "-boot-" + std::to_string(boots); }
  bool acts() const { return powered && !frozen; }
  Capacity used() const;
};

/// What shared storage knows of one VM.
struct StoredVm {
  Epoch epoch;             ///< highest that wrote its configuration beside the disk
  std::uint64_t lock = 0;  ///< serial of the copy that holds the image lock; 0 = free
};

// Why copies end with their machine.
constexpr const char* kPowerLost = "power lost";
constexpr const char* kSwitchedOff = "switched off by its BMC";
constexpr const char* kReset = "reset by its watchdog";

struct WorldOptions {
  bool image_locks =
      true;  ///< shared storage enforces one writer per disk, as QEMU's image locks do
  Duration start = milliseconds(180);        ///< from the start call until processors run
  Duration guest_boot = milliseconds(2500);  ///< until the guest answers
  Duration guest_shutdown = milliseconds(1200);
  Duration host_boot = seconds(30);
  std::int64_t migration_mib_per_second = 1024;
};

/// Owner of all ground truth. Changing calls tell every observer at once, in the order of observe(). Not thread-safe.
class World {
 public:
  /// `host` is set always; `copy` for spawned, state, ended and guest.
  using Observer = std::function<void(WorldChange, const HostTruth& host, const Copy* copy)>;

  World(SimLoop& loop, WorldOptions options) : loop_(loop), options_(options) {}

  SimLoop& loop() { return loop_; }
  const WorldOptions& options() const { return options_; }
  void observe(Observer observer) { observers_.push_back(std::move(observer)); }

  HostTruth& add_host(const HostId& id, Capacity capacity);
  std::deque<HostTruth>& hosts() { return hosts_; }
  const std::deque<HostTruth>& hosts() const { return hosts_; }
  HostTruth* find_host(const HostId& id);
  HostTruth* find_address(const std::string& address);
  const std::map<VmId, StoredVm>& stored() const { return stored_; }
  std::map<VmId, StoredVm>& stored() { return stored_; }

  /// Requests a second that consumers send to the service; 10 unless it was set.
  int demand(const ServiceId& service) const;
  void set_demand(const ServiceId& service, int requests) { demand_[service] = requests; }

  /// From now on what `from` sends to `to` vanishes, on every network; nullptr = the server. Until mend() of either.
  void cut(const HostTruth* from, const HostTruth* to);
  void mend(const HostTruth& host);
  bool passes(const HostTruth* from, const HostTruth* to) const;
  bool joined(const HostTruth& one, const HostTruth& other) const;

  bool storage_reachable(const HostTruth& host) const;
  /// A packet from one host to another passes on `wire`.
  bool path(const HostTruth& from, const HostTruth& to, Wire wire) const;

  /// Some disk of it is no volume; a VM without disks counts as if it had one.
  static bool has_files(const VmLaunch& launch);

  /// The volume that lets the holder in now, as this host reaches it, or somebody; nullptr = none.
  VolumeTruth* volume_of(const VolumeEndpoint& with, const HostTruth* consumer = nullptr);

  /// Of the places where a volume is written those that do not take it now.
  std::vector<DeviceId> failing_legs(const HostTruth& host, const DiskTruth& disk);

  /// A guest that runs writes to its volumes, and keeps what was acknowledged.
  void guest_writes(const HostTruth& host, const Copy& copy);

  /// A volume of it does not hold what was acknowledged last; empty = none. One that was never written holds all.
  std::string lost_writes(const Copy& copy);

  /// All places of the volume have this attachment on record, so that it may write, if not at this moment.
  bool admitted(const VolumeId& volume, const DiskTruth& disk) const;

  /// All that it can write has cut it off for ever: it is harmless, whether it runs or not.
  bool cut_off(const Copy& copy) const;

  Copy* find_copy(std::uint64_t serial, HostTruth** host);

  /// Makes a copy's process. The caller has checked what its driver checks.
  Copy& spawn(HostTruth& host, const VmLaunch& launch, CopyState state);
  /// Sets the state, takes or frees the image lock as the new state needs. Errors: conflict (locked elsewhere).
  Result<void> set_state(HostTruth& host, Copy& copy, CopyState to);
  /// How long the VM's guests have run in truth, all copies together.
  Duration run_time(const VmId& vm) const;
  /// Ends a copy's process; frees its lock. Nothing when it is not there.
  void end_copy(HostTruth& host, VmId vm, const std::string& why);
  /// The guest hangs or answers again, panics, or its process turns deaf.
  void set_guest(HostTruth& host, Copy& copy, bool hung, const std::string& trouble);

  void power_off(HostTruth& host, const std::string& why = kPowerLost);
  void power_on(HostTruth& host);  ///< a new boot; its programs are started by who observes
  void set_frozen(HostTruth& host, bool frozen);
  void set_links(HostTruth& host, Wire wire, Link link);
  void set_partition(HostTruth& host, int partition);

  /// Hash over everything that has ever changed, in order; equal runs have equal hashes.
  std::uint64_t trace_hash() const { return trace_; }
  void mix(std::string_view text);
  void mix(std::uint64_t number);

 private:
  bool locks(const Copy& copy, CopyState state) const;
  void tell(WorldChange change, const HostTruth& host, const Copy* copy);

  SimLoop& loop_;
  WorldOptions options_;
  std::deque<HostTruth> hosts_;
  std::unordered_map<std::string, std::size_t> by_id_;
  std::map<VmId, StoredVm> stored_;
  std::map<ServiceId, int> demand_;
  std::set<std::pair<std::size_t, std::size_t>> cuts_;  ///< from, to
  std::map<std::pair<VolumeId, Epoch>, std::uint64_t>
      acknowledged_;  ///< last write to a volume, by name and floor
  std::unordered_map<std::string, std::size_t>
      served_by_;  ///< by the name of a device: the index of its host
  std::uint64_t writes_ = 0;
  std::map<VmId, Duration> ran_;  ///< copies that have ended
  std::map<std::uint64_t, std::size_t> hosts_by_serial_;
  std::vector<Observer> observers_;
  std::uint64_t next_serial_ = 1;
  std::uint64_t trace_ = 14695981039346656037U;
};

}  // namespace virga::sim
