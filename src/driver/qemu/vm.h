#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "driver/hypervisor.h"
#include "driver/qemu/disk_mirror.h"
#include "driver/qemu/migration_socket.h"
#include "driver/qemu/vm_guest.h"
#include "driver/qemu/vm_meter.h"
#include "driver/qemu/vm_migration.h"
#include "driver/qemu/vm_process.h"
#include "edge/completion.h"

namespace virga {

/// One copy of a VM, from the order to start it until its process is gone. Loop thread only.
class QemuVm : public std::enable_shared_from_this<QemuVm> {
 public:
  struct Handlers {
    std::function<void(const ObservedVm&, const std::string& why)> changed;
    std::function<void()> ended;  ///< once, after the last `changed`
    std::function<Result<void>()>
        before_run;  ///< stores that this epoch is used, before its guest runs
  };

  QemuVm(VmContext& context, VmFolder folder, const VmLaunch& launch, Handlers handlers);

  /// Creates or opens files, starts QEMU and lets the guest run, or wait for a migration.
  void start(bool incoming, std::uint32_t user, Callback<void> done);

  /// Takes over what an earlier agent started. A copy whose start it did not finish is ended.
  void adopt(const LaunchRecord& record, Callback<void> done);

  /// A further caller for a start that is under way or over.
  void join_start(Callback<void> done);

  void stop(const StopOptions& options, Callback<void> done);
  void send(const MigrationEndpoint& to, const MigrationLimits& limits,
            Callback<MigrationProgress> done);
  void switch_over(Callback<MigrationProgress> done);
  void resume(Callback<void> done);
  void cancel_send(Callback<void> done);

  void mirror_disk(const DiskMirror& wanted, Callback<MigrationProgress> done);
  void grow_disk(const std::string& volume, Callback<void> done);
  void keep_leg(const std::string& volume, const DeviceId& device, Callback<void> done);
  void switch_disk(const std::string& volume, Callback<void> done);
  void cancel_mirror(const std::string& volume, Callback<void> done);

  Result<void> change_limits(const VmLaunch& launch);

  /// Figures, heartbeat, console and QMP's health. Once a second.
  void tick();

  const VmLaunch& launch() const { return launch_; }
  void attribute(const std::string& correlation) {
    launch_.correlation = correlation;
    process_.attribute(correlation);
  }
  std::uint32_t user() const { return process_.record().user; }
  bool incoming() const { return incoming_; }
  MigrationEndpoint endpoint() const;
  MigrationProgress progress() const;
  ObservedVm observed() const;

  /// What it has used, as of the last tick; its run time as of now.
  VmUsage used() const;
  Result<std::string> console(std::size_t bytes_max) const;

 private:
  enum class Stage { preparing, launching, ready, ended };

  // vm.cc: life of the process
  void open_files_as(std::uint32_t user);
  void check_image(std::shared_ptr<OpenFiles> files, std::uint32_t user);
  void files_opened(Result<std::shared_ptr<OpenFiles>> files, std::uint32_t user);
  void ports_opened(const Result<void>& ports, const OpenFiles& files, std::uint32_t user);
  void qmp_opened(Result<void> opened);
  void qmp_lost(const Error& why);
  void run_first_time();
  void listen();
  void finish_start(const Result<void>& outcome);
  void fail_start(Error why);
  void exited(ProcessExit exit);
  void end(const std::string& why);
  std::string exit_reason(ProcessExit exit) const;
  Error start_error(const std::string& words) const;
  void escalate_stop();

  // vm_events.cc: what QEMU tells
  void event(const QmpEvent& event);
  void guest_stopped(const QmpEvent& event);
  void runs_again();
  void apply_state(Result<qmp::RunState> state);
  void ask_state();
  bool adopted_state(qmp::RunState state, const qmp::MigrationInfo& migration);
  void reconnect();
  void ask_disks();
  void await_room();
  void ask_for_room();
  void ask_for_volumes();
  void try_disks_again();
  ObservedDisk observed_disk(const VolumeId& volume, Mib size) const;
  void sample_usage();
  void sample_traffic();
  bool guest_runs() const;
  void changed(const std::string& why);

  // vm_move.cc: live migration
  void peer_connected(Descriptor connection);
  void state_arrived();
  void run_arrived();
  void finish_resume(const Result<void>& outcome);
  void inspect_ports(std::size_t index);
  void found_isolated(std::string breach);
  void end_left_send(qmp::MigrationState state);
  void ask_left_send();
  void follow_left_send(qmp::MigrationState state);
  void run_again(Callback<void> done, Instant until);
  bool is_moving() const;

  // vm_disk.cc: a disk on its way to another volume
  Error mirror_error(const std::string& volume, Errc code, const std::string& why) const;
  Result<void> may_mirror(const std::string& volume);
  Result<std::shared_ptr<Descriptor>> keys_for(std::size_t disk, const VolumeEndpoint& at);
  void copy_disk(const DiskMirror& wanted, const Callback<MigrationProgress>& done);
  Result<void> may_keep_leg(std::size_t disk, const DeviceId& device);
  void keep_leg_again();
  void leg_failed(const std::string& node);
  void learn_disks();
  DiskMirroring& mirroring();
  void end_mirror(const std::string& volume, void (DiskMirroring::*how)(Callback<void>), Task then,
                  Callback<void> done);

  VmContext& context_;
  VmLaunch launch_;
  Handlers handlers_;
  VmProcess process_;
  VmGuest guest_;
  Stage stage_ = Stage::preparing;
  VmPower power_ = VmPower::starting;
  bool incoming_ = false;
  bool postmigrate_ = false;
  std::string failing_;  ///< what is wrong with the guest; empty = nothing
  bool qmp_silent_ = false;
  bool asking_ = false;
  bool disk_full_ = false;  ///< paused by it
  bool asking_room_ = false;
  bool trying_ = false;          ///< it was let run to see whether its disks work again
  bool volume_awaited_ = false;  ///< paused by one that does not answer, or has no room
  bool asking_volumes_ = false;
  std::int64_t room_bytes_ = -1;  ///< beside its disks at the last look; negative = not looked yet
  std::string shutdown_reason_;

  std::vector<Callback<void>> start_waiters_;
  Timer start_deadline_;
  std::unique_ptr<Error> start_error_;
  std::vector<Callback<void>> stop_waiters_;
  Timer stop_timer_;
  bool stopping_ = false;

  std::unique_ptr<DiskMirroring> mirroring_;
  std::map<VolumeId, Mib> disk_sizes_;
  std::map<VolumeId, std::set<DeviceId>>
      failing_legs_;          ///< of mirrored ones, since they are in two places
  bool keeping_leg_ = false;  ///< one is being put on one place
  std::unique_ptr<OutgoingMigration> outgoing_;
  bool left_send_ = false;  ///< a migration whose owner, an earlier agent, is gone has not ended
  Timer left_send_cut_;
  std::unique_ptr<MigrationListener> listener_;
  std::string secret_;
  std::string migration_key_;  ///< empty = it comes unencrypted
  std::uint16_t port_ = 0;
  bool arrived_ = false;
  Completion<void> resume_;

  bool inspect_due_ = false;  ///< nobody has found yet that its ports are kept apart
  bool isolation_checked_ = false;
  Instant inspected_by_;  ///< by then the look that is under way has ended or counts for nothing
  std::string isolation_breach_;
  VmMeter meter_;
  VmUsage traffic_;  ///< its counters of disks and networks
  CgroupUsage usage_;
  Instant usage_at_;
  Millicores cpu_used_;
  int ticks_ = 0;
  VmHealth told_health_ = VmHealth::unknown;
};

}  // namespace virga
