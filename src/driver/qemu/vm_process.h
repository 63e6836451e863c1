#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "driver/qemu/hardware.h"
#include "driver/qemu/vm_context.h"
#include "driver/qemu/vm_files.h"
#include "driver/qmp/qmp_client.h"
#include "edge/process.h"

namespace virga {

/// Copies what change_limits() of Hypervisor changes, and nothing else.
void take_limits(const VmLaunch& from, VmLaunch& to);

/// One QEMU process with all that belongs to it on this host: folder, cgroup, taps, guard and QMP connection.
/// Knows nothing of what its guest does. Loop thread only.
class VmProcess {
 public:
  struct Handlers {
    std::function<void(const QmpEvent&)> event;
    std::function<void(const Error&)> qmp_lost;  ///< QEMU may live on
    std::function<void(ProcessExit)> exit;       ///< once
  };

  VmProcess(VmContext& context, VmFolder folder, Handlers handlers);

  /// Makes the ports of the launch's cards. Next is launch(), or release() for what was made.
  void open_ports(const VmLaunch& launch, Callback<void> done);

  /// Makes the group, starts QEMU with its processors stopped, hands it to the guard and writes the record. A process
  /// that came into being is followed even when a later step fails: end it, and wait for `exit`. One that is incoming
  /// waits for a live migration.
  Result<void> launch(const OpenFiles& files, bool incoming, std::uint32_t user);

  /// Takes over a QEMU that an earlier agent started. Errors: not_found (it has ended).
  Result<void> adopt(const LaunchRecord& record);

  /// (Re)connects QMP; handlers get events from then on.
  void connect_qmp(Duration deadline, Callback<void> done);

  /// nullptr while not connected.
  QmpClient* qmp() { return qmp_open_ ? qmp_.get() : nullptr; }

  void attribute(const std::string& correlation) {
    if (qmp_) qmp_->set_correlation(correlation);
  }
  bool exists() const { return process_ != nullptr; }
  void kill();

  /// Frees what belonged to a process that has ended.
  void release();

  /// Also of the processes that it has; kept for the next agent. See take_limits().
  Result<void> change_limits(const VmLaunch& from);
  Result<CgroupUsage> usage() const;

  /// Last lines of QEMU's own messages.
  std::string log_tail() const;

  const VmFolder& folder() const { return folder_; }

  /// Names of the taps that open_ports() made.
  const std::vector<std::string>& taps() const { return taps_; }
  const LaunchRecord& record() const { return record_; }

  /// What the next agent must know of a disk on its way to another volume.
  Result<void> note_mirror(std::optional<MirrorRecord> mirror);
  Result<void> note_kept_leg(std::optional<LegRecord> kept);

  /// The disk of this name is in other places from now on. Noted with the next record.
  void turn_disk(const LaunchDisk& disk);
  Result<void> mark_incoming(bool incoming);

 private:
  struct Inherited;
  struct Port {
    Descriptor descriptor;
    bool packets = false;
  };

  Result<void> take_port(const LaunchNic& nic, Descriptor opened, const Result<OpenPort>& port);
  Result<void> spawn(const OpenFiles& files);
  Result<void> add_nics(Inherited& inherited);
  Result<NicBackend> lay_wire(const Descriptor& port, Inherited& inherited);
  Result<void> open_channels(Inherited& inherited);
  Result<void> add_files(const OpenFiles& files, Inherited& inherited);
  Result<void> add_volume(std::size_t index, Inherited& inherited);
  void follow(std::unique_ptr<Process> process);

  VmContext& context_;
  VmFolder folder_;
  Handlers handlers_;
  LaunchRecord record_;
  std::unique_ptr<Process> process_;
  std::vector<std::unique_ptr<Process>> wires_;  ///< each ends with QEMU's end of it
  std::unique_ptr<QmpClient> qmp_;
  bool qmp_open_ = false;
  std::vector<LaunchNic> open_nics_;
  std::vector<std::string> taps_;
  std::map<std::string, Port> ports_;  ///< by the card's port, until QEMU has them
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
