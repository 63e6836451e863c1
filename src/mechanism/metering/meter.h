#pragma once

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "mechanism/metering/series.h"
#include "model/usage.h"

namespace virga::metering {

/// What is measured, under a number that is never given again.
struct Subject {
  std::int64_t id = 0;
  SubjectKind kind = SubjectKind::vm;
  std::string name;  ///< "acme/web", "host-1"
  std::string tenant;
};

/// Who pays: one copy of a VM on one host, one volume on one device, one service by the balancer on one host. Epochs
/// are unique over all VMs, so that a move, a restart and a VM of the same name that came later are copies of their
/// own.
struct Charged {
  std::int64_t id = 0;
  std::int64_t subject = 0;
  Epoch epoch;
  std::string place;  ///< host or device
  int cpus = 0;
  std::int64_t memory_mib = 0;
  std::int64_t at_ms = 0;  ///< of the last sample, UTC
  Amounts counted{};       ///< its counters then: what came before is charged
};

/// What one copy has used within one window.
struct Charge {
  std::int64_t charged = 0;  ///< Charged::id
  std::int64_t from_ms = 0;
  std::int64_t to_ms = 0;
  Amounts amounts{};
};

struct SubjectWindow {
  std::int64_t subject = 0;
  SubjectKind kind = SubjectKind::vm;
  std::vector<std::int64_t> points;  ///< kWindowPoints of each series, one series after the other
};

/// One window, to be kept whole or not at all. Charges and the counters up to which they go are in the same one, so
/// that nothing is charged twice, whenever its writer is killed.
struct Window {
  std::int64_t number = 0;  ///< of kWindowMs since 1970
  std::vector<Subject> fresh;
  std::vector<SubjectWindow> subjects;
  std::vector<Charged> charged;
  std::vector<Charge> charges;  ///< one for each of `charged`
};

/// What a meter goes on from.
struct MeterState {
  std::int64_t born_ms = 0;  ///< when metering began here
  std::int64_t at_ms = 0;    ///< end of the last window that was kept
  std::int64_t last_subject = 0;
  std::int64_t last_charged = 0;
  std::vector<Subject> subjects;  ///< of `charged`, and all hosts
  std::vector<Charged> charged;   ///< those with a sample within kRemembered
};

/// Samples in, windows out. Pure; one thread.
///
/// Samples carry counters since the beginning of a copy; what is charged is their growth. So a lost sample, a repeated
/// one, one of a server that came later or of an agent that came back leaves no gap and charges nothing twice, and a
/// meter whose window could not be kept is replaced by one that goes on from what was. Growth is added to the point at
/// which it became known; after at most kBridged missing points it is spread over them, after more they are gaps. Cost:
/// a look-up a sample; memory: 2.2 KiB a subject and what is not taken yet.
class Meter {
 public:
  static constexpr std::int64_t kRemembered =
      7 * kDayMs;  ///< a copy that is not heard of so long is forgotten
  static constexpr std::int64_t kBridged = 2;

  explicit Meter(MeterState state);

  /// `at_ms`: time in UTC; one that is before the last is taken for the last.
  void add_vm(const HostId& host, const std::string& tenant, const VmUsage& usage,
              std::int64_t at_ms);

  /// A volume is charged from its first sample to its last for the size that it had at the one before.
  struct VolumeSample {
    std::string volume;
    std::string tenant;
    std::string device;
    Epoch floor;  ///< which volume of this name it is
    std::int64_t size_mib = 0;
    std::int64_t used_mib = -1;  ///< negative = not measured
  };
  void add_volume(const VolumeSample& sample, std::int64_t at_ms);

  /// What the balancer of a service has counted since it began to count: `counters` is another number then.
  struct ServiceSample {
    std::string service;
    std::string tenant;
    std::string host;
    std::int64_t created_ms = 0;  ///< the service, UTC
    std::uint64_t counters = 0;
    std::int64_t requests = 0;
    std::int64_t errors = 0;
    std::int64_t connections = 0;  ///< now
  };
  void add_service(const ServiceSample& sample, std::int64_t at_ms);

  void add_host(const std::string& host, std::int64_t cpu_millicores, std::int64_t memory_mib,
                std::int64_t at_ms);

  /// Time passes, whether there are samples or not.
  void pass(std::int64_t at_ms);

  /// The oldest window that is over.
  std::optional<Window> take();

  /// Windows that are over and were not taken.
  std::size_t waiting() const { return over_.size(); }

 private:
  struct Known {
    Subject subject;
    bool kept = false;
    std::int64_t at_ms = 0;            ///< of the last sample
    std::vector<std::int64_t> points;  ///< of the open window; empty = none
  };
  struct Account {
    Charged charged;
    std::optional<Charge> open;  ///< within the open window
    std::int64_t to_ms = 0;      ///< end of the last charge
  };
  using SubjectKey = std::pair<SubjectKind, std::string>;
  using AccountKey = std::tuple<SubjectKind, std::string, Epoch, std::string>;

  std::int64_t clamp(std::int64_t at_ms);
  Known& know(SubjectKind kind, const std::string& name, const std::string& tenant);
  Account& account(const AccountKey& key, Known& known);
  void put(Known& known, std::size_t series, std::int64_t value, std::int64_t since_ms);
  void charge(Account& account, const Amounts& grown, std::int64_t from_ms, std::int64_t to_ms);
  void close_window();
  void forget();

  std::int64_t born_ms_;
  std::int64_t at_ms_;
  std::int64_t window_;  ///< number of the open one
  std::int64_t last_subject_;
  std::int64_t last_charged_;
  std::map<SubjectKey, Known> subjects_;
  std::map<AccountKey, Account> accounts_;
  std::vector<Window> over_;
};

}  // namespace virga::metering
