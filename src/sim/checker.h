#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "model/host.h"
#include "sim/world.h"

namespace virga::sim {

/// What stands in the store, asked at the moment of an effect. The only belief that the checker looks at, since "it
/// was recorded before it was done" is a rule about records.
struct Records {
  /// The highest epoch that the store admits for the VM (in force, or of its incoming copy).
  std::function<Epoch(const VmId&)> epoch;
  /// The highest epoch of an operation on the VM that stands in the store, also of one that has ended: a move that was
  /// given up while its destination still began stays on record there alone.
  std::function<Epoch(const VmId&)> decided;
  /// The lost copies that stand with the start of this epoch; empty when no such start is recorded.
  std::function<LostCopies(const VmId&, const Epoch&)> lost;
  /// What may be promised of a host's processors, in per cent.
  int cpu_overcommit_percent = 100;
  /// The other copies of a service that has ordered this VM's end; nothing = no service that lives on has.
  std::function<std::optional<std::vector<VmId>>(const VmId&)> beside = nullptr;
  /// Whether the store knows the VM.
  std::function<bool(const VmId&)> known = nullptr;
  /// The only regions where the VM may be; nothing = anywhere.
  std::function<std::optional<std::set<std::string>>(const VmId&)> regions = nullptr;
};

/// Why a copy has ended that was told to.
constexpr const char* kOrderedStop = "stopped";

struct Violation {
  Duration at{};  ///< since the beginning
  std::string rule;
  std::string text;
};

/// Watches ground truth after every change and writes down every broken safety rule:
///   two_places        a VM runs in at most one place; a copy that all its volumes have cut off does not count
///   old_epoch         no copy begins to run after a newer one has run
///   unrecorded_epoch  no copy exists whose epoch was not stored before
///   unproven_start    a VM that was lost starts only with a recorded proof, and the proof is true;
///                     a copy that all its volumes have cut off starts nothing
///   lost_write        a copy begins to run on volumes that hold what guests wrote last
///   two_writers       no volume is written by two copies, of the same VM or of another
///   unshared          no copy runs whose configuration does not stand beside its disk; in the simulator its driver
///                     writes it, so that what could break this is that it is erased or older
///   region            no copy is on a host outside the regions that its tenant and its volumes allow
///   stray_ended       nobody orders the end of a VM that the store does not know
///   removed_early     a service ends a copy that answers only while another answers, or has until 15 s ago
///   capacity          a host never holds more than it has, moves in flight included
///   lease             no guest runs on a host whose lease and slack have ended: 1.5 s, or what the leash leaves to a
///                     watchdog (LeashCore::kOverrun) and a drifting clock, where that alone is left
/// Others report here what they watch: liveness, isolation, region of volumes, charged_twice, charge_gap (swarm.cc).
/// Cost: O(copies of one host) a change, one timer a host.
class Checker {
 public:
  Checker(World& world, Records records);

  /// A grant has reached the agent of `host`: its guests may run until `until`, in true time.
  void lease_granted(HostTruth& host, Instant until);

  /// What can end the guests of this host when its lease ends.
  enum class Ender : char {
    program,   ///< its agent or its leash
    watchdog,  ///< that alone: they have the time that the leash leaves it
    nobody,    ///< by the scenario's own doing: they may outlive their lease
  };
  void set_ender(const HostTruth& host, Ender ender) {
    flag(enders_, host.index) = static_cast<char>(ender);
  }

  /// Promises about liveness are checked by the caller at the end; they are written down here as well.
  void report(const std::string& rule, const std::string& text);

  const std::vector<Violation>& violations() const { return violations_; }

  /// Where a VM runs now; empty = nowhere.
  std::vector<std::size_t> running_at(const VmId& vm) const;

 private:
  struct History {
    Epoch highest_run;
    std::size_t last_host = 0;
    std::uint64_t last_boot = 0;
    bool has_run = false;
    bool lost = false;                   ///< its last copy ended otherwise than by an ordered stop
    Instant lease_until{};               ///< of its last host
    std::optional<Instant> troubled_at;  ///< something happened to it that nobody had ordered
    std::vector<std::uint64_t> running;  ///< serials of copies in state running
  };

  static char& flag(std::vector<char>& flags, std::size_t host) {
    if (flags.size() <= host) flags.resize(host + 1);
    return flags[host];
  }
  void changed(WorldChange change, const HostTruth& host, const Copy* copy);
  void copy_runs(const HostTruth& host, const Copy& copy);
  void note_trouble(WorldChange change, const HostTruth& host, const Copy* copy);
  void check_removal(const HostTruth& host, const Copy& copy);
  void check_places(const VmId& vm);
  void check_writers(const Copy& copy);
  void check_begun(const HostTruth& host, const Copy& copy);
  void check_end(const HostTruth& host, const Copy& copy);
  void check_proof(const HostTruth& host, const Copy& copy, const History& history);
  bool all_cut_off(const HostTruth& last, const History& history) const;
  void check_capacity(const HostTruth& host);
  Instant lease_check_due(const HostTruth& host);
  void check_lease(std::size_t host);

  World& world_;
  Records records_;
  std::map<VmId, History> histories_;
  std::map<VolumeId, std::vector<std::uint64_t>> writers_;  ///< serials of copies in state running
  std::vector<char> enders_;         ///< by index of the host
  std::vector<char> lease_watched_;  ///< by index of the host
  std::vector<Violation> violations_;
};

}  // namespace virga::sim
