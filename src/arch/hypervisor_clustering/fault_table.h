#pragma once

#include <span>
#include <string>

#include "model/host.h"
#include "runtime/cluster_view.h"

namespace virga {

/// What befalls a host that has a BMC, an armed leash and a watchdog; links are those of the management network.
enum class HostFault {
  power,       ///< its power is cut
  hang,        ///< the whole machine stands still
  link,        ///< nothing reaches it or leaves it
  link_out,    ///< what it sends is lost
  link_in,     ///< what is sent to it is lost
  agent,       ///< its agent is killed and stays away
  agent_stop,  ///< its agent stands still
  leash,       ///< its leash is killed and stays away
  qemu,        ///< its hypervisor processes are killed
};
BOOST_DESCRIBE_ENUM(HostFault, power, hang, link, link_out, link_in, agent, agent_stop, leash, qemu)

enum class BmcConduct {
  answers,
  silent,
  lies,  ///< says that it switched off and did nothing
  slow,  ///< answers later than the host is held for dead, sooner than its lease ends; slower is as good as silent
};
BOOST_DESCRIBE_ENUM(BmcConduct, answers, silent, lies, slow)

/// What keeps two copies of a VM from writing to its disks.
enum class StorageConduct {
  locks,    ///< they are files, and the file system gives each to one hypervisor at a time
  none,     ///< they are files, and nothing does
  volumes,  ///< they are volumes: their storage cuts off whom it is told to, and says so
};
BOOST_DESCRIBE_ENUM(StorageConduct, locks, none, volumes)

/// What ends the old copy of a VM.
enum class CopyEnd {
  fault,     ///< what befell the host, at once
  bmc,       ///< it switched the host off
  lease,     ///< at the end of the host's lease its agent stops it and its leash kills it, who comes first
  watchdog,  ///< nobody fed it any more: it reset the host
};
BOOST_DESCRIBE_ENUM(CopyEnd, fault, bmc, lease, watchdog)

enum class RestartPlace {
  in_place,    ///< on the same host
  elsewhere,   ///< on another host, the lost one need not come back
  after_boot,  ///< nothing proves the old copy's end before the host's next boot says so; then wherever there is room
};
BOOST_DESCRIBE_ENUM(RestartPlace, in_place, elsewhere, after_boot)

/// What the new copy meets. Other than `nothing` only where the proof of the old one's end was a lie.
enum class NewCopyMeets {
  nothing,   ///< the old copy had ended or could not act any more
  lock,      ///< its starts are refused by the lock on the VM's disk until the old copy has ended
  old_copy,  ///< both run until the old one's lease ends: the rule that a VM runs in one place is broken
};
BOOST_DESCRIBE_ENUM(NewCopyMeets, nothing, lock, old_copy)

/// One row: fault x BMC x storage -> what is believed, what proves it, and what becomes of a VM there
/// that is to run.
struct FaultRow {
  HostFault fault = HostFault::power;
  BmcConduct bmc = BmcConduct::answers;
  StorageConduct storage = StorageConduct::locks;
  bool dead = true;    ///< the host is held for dead
  FenceProof proof = FenceProof::none;  ///< on which the VM starts again; recorded with the start
  CopyEnd ended_by = CopyEnd::fault;
  RestartPlace restart = RestartPlace::elsewhere;
  NewCopyMeets meets = NewCopyMeets::nothing;
  bool lab = false;  ///< the lab can do it: a test with real guests goes through the row

  friend bool operator==(const FaultRow&, const FaultRow&) = default;
};
BOOST_DESCRIBE_STRUCT(FaultRow, (),
                      (fault, bmc, storage, dead, proof, ended_by, restart, meets, lab))

/// What plan_cluster() and the steps of its fences come to, as data: every fault x every BMC x every kind of storage,
/// once each. Three tests hold the room to it, row by row: the planner alone (fault_table_test.cc), a scenario of the
/// simulator (sim/fault_table_test.cc), and real guests where the lab can do it (tests/integration/
/// fault_table_test.py).
std::span<const FaultRow> fault_table();

/// The row that tells what the loss of this host's power would come to, as it is equipped now. `machine` is its bare
/// metal; nullptr = not known.
const FaultRow& row_of_loss(const Host& host, const Machine* machine,
                            StorageConduct storage = StorageConduct::locks);

/// What guards the VM's disks when that host is lost: `volumes` if they can all cut it off without the host.
StorageConduct storage_without(const HostId& lost, const ClusterView& view, const Vm& vm);

/// "link-out-bmc-lies-locks-off", "...-volumes": the row's scenario is scenarios/hypervisor_clustering/NN-NAME.scn.
std::string name_of(const FaultRow& row);

/// The whole table for readers: docs/reference/fault-table.md.
std::string fault_table_markdown();

}  // namespace virga
