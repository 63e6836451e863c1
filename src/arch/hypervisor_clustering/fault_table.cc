#include "arch/hypervisor_clustering/fault_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "arch/hypervisor_clustering/disk_places.h"
#include "base/reflect.h"

namespace virga {
namespace {

using enum HostFault;
using enum BmcConduct;
using enum RestartPlace;
using enum NewCopyMeets;
using enum StorageConduct;
constexpr bool kDead = true;
constexpr bool kHeard = false;
constexpr FenceProof kOff = FenceProof::bmc_power_off;
constexpr FenceProof kLease = FenceProof::lease_and_leash;
constexpr FenceProof kStorage = FenceProof::storage_revoked;
constexpr FenceProof kAgent = FenceProof::agent_confirmed_stop;

// clang-format off
constexpr FaultRow kRows[] = {
    // fault, BMC, storage; held for dead, proof, old copy ended by, restart, new copy meets; lab
    {power, answers, locks, kDead, kOff, CopyEnd::fault, elsewhere, nothing, true},
    {power, answers, none, kDead, kOff, CopyEnd::fault, elsewhere, nothing, false},
    {power, answers, volumes, kDead, kStorage, CopyEnd::fault, elsewhere, nothing, false},
    {power, silent, locks, kDead, kLease, CopyEnd::fault, elsewhere, nothing, true},
    {power, silent, none, kDead, kLease, CopyEnd::fault, elsewhere, nothing, false},
    {power, silent, volumes, kDead, kStorage, CopyEnd::fault, elsewhere, nothing, false},
    {power, lies, locks, kDead, kOff, CopyEnd::fault, elsewhere, nothing, true},
    {power, lies, none, kDead, kOff, CopyEnd::fault, elsewhere, nothing, false},
    {power, lies, volumes, kDead, kStorage, CopyEnd::fault, elsewhere, nothing, false},
    {power, slow, locks, kDead, kOff, CopyEnd::fault, elsewhere, nothing, true},
    {power, slow, none, kDead, kOff, CopyEnd::fault, elsewhere, nothing, false},
    {power, slow, volumes, kDead, kStorage, CopyEnd::fault, elsewhere, nothing, false},
    {hang, answers, locks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {hang, answers, none, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {hang, answers, volumes, kDead, kStorage, CopyEnd::bmc, elsewhere, nothing, false},
    {hang, silent, locks, kDead, kLease, CopyEnd::watchdog, elsewhere, nothing, true},
    {hang, silent, none, kDead, kLease, CopyEnd::watchdog, elsewhere, nothing, false},
    {hang, silent, volumes, kDead, kStorage, CopyEnd::watchdog, elsewhere, nothing, true},
    {hang, lies, locks, kDead, kOff, CopyEnd::watchdog, elsewhere, lock, true},
    {hang, lies, none, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, false},
    {hang, lies, volumes, kDead, kStorage, CopyEnd::watchdog, elsewhere, nothing, true},
    {hang, slow, locks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {hang, slow, none, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {hang, slow, volumes, kDead, kStorage, CopyEnd::bmc, elsewhere, nothing, false},
    {link, answers, locks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {link, answers, none, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {link, answers, volumes, kDead, kStorage, CopyEnd::bmc, elsewhere, nothing, false},
    {link, silent, locks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, true},
    {link, silent, none, kDead, kLease, CopyEnd::lease, elsewhere, nothing, false},
    {link, silent, volumes, kDead, kStorage, CopyEnd::lease, elsewhere, nothing, true},
    {link, lies, locks, kDead, kOff, CopyEnd::lease, elsewhere, lock, true},
    {link, lies, none, kDead, kOff, CopyEnd::lease, elsewhere, old_copy, false},
    {link, lies, volumes, kDead, kStorage, CopyEnd::lease, elsewhere, nothing, true},
    {link, slow, locks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {link, slow, none, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {link, slow, volumes, kDead, kStorage, CopyEnd::bmc, elsewhere, nothing, false},
    {link_out, answers, locks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {link_out, answers, none, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {link_out, answers, volumes, kDead, kStorage, CopyEnd::bmc, elsewhere, nothing, false},
    {link_out, silent, locks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, true},
    {link_out, silent, none, kDead, kLease, CopyEnd::lease, elsewhere, nothing, false},
    {link_out, silent, volumes, kDead, kStorage, CopyEnd::lease, elsewhere, nothing, false},
    {link_out, lies, locks, kDead, kOff, CopyEnd::lease, elsewhere, lock, true},
    {link_out, lies, none, kDead, kOff, CopyEnd::lease, elsewhere, old_copy, false},
    {link_out, lies, volumes, kDead, kStorage, CopyEnd::lease, elsewhere, nothing, false},
    {link_out, slow, locks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {link_out, slow, none, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {link_out, slow, volumes, kDead, kStorage, CopyEnd::bmc, elsewhere, nothing, false},
    {link_in, answers, locks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {link_in, answers, none, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {link_in, answers, volumes, kDead, kStorage, CopyEnd::bmc, elsewhere, nothing, false},
    {link_in, silent, locks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, true},
    {link_in, silent, none, kDead, kLease, CopyEnd::lease, elsewhere, nothing, false},
    {link_in, silent, volumes, kDead, kStorage, CopyEnd::lease, elsewhere, nothing, false},
    {link_in, lies, locks, kDead, kOff, CopyEnd::lease, elsewhere, lock, true},
    {link_in, lies, none, kDead, kOff, CopyEnd::lease, elsewhere, old_copy, false},
    {link_in, lies, volumes, kDead, kStorage, CopyEnd::lease, elsewhere, nothing, false},
    {link_in, slow, locks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {link_in, slow, none, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {link_in, slow, volumes, kDead, kStorage, CopyEnd::bmc, elsewhere, nothing, false},
    {agent, answers, locks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {agent, answers, none, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {agent, answers, volumes, kDead, kStorage, CopyEnd::bmc, elsewhere, nothing, false},
    {agent, silent, locks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, true},
    {agent, silent, none, kDead, kLease, CopyEnd::lease, elsewhere, nothing, false},
    {agent, silent, volumes, kDead, kStorage, CopyEnd::lease, elsewhere, nothing, false},
    {agent, lies, locks, kDead, kOff, CopyEnd::lease, elsewhere, lock, true},
    {agent, lies, none, kDead, kOff, CopyEnd::lease, elsewhere, old_copy, false},
    {agent, lies, volumes, kDead, kStorage, CopyEnd::lease, elsewhere, nothing, false},
    {agent, slow, locks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {agent, slow, none, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {agent, slow, volumes, kDead, kStorage, CopyEnd::bmc, elsewhere, nothing, false},
    {agent_stop, answers, locks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {agent_stop, answers, none, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {agent_stop, answers, volumes, kDead, kStorage, CopyEnd::bmc, elsewhere, nothing, false},
    {agent_stop, silent, locks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, true},
    {agent_stop, silent, none, kDead, kLease, CopyEnd::lease, elsewhere, nothing, false},
    {agent_stop, silent, volumes, kDead, kStorage, CopyEnd::lease, elsewhere, nothing, true},
    {agent_stop, lies, locks, kDead, kOff, CopyEnd::lease, elsewhere, lock, true},
    {agent_stop, lies, none, kDead, kOff, CopyEnd::lease, elsewhere, old_copy, false},
    {agent_stop, lies, volumes, kDead, kStorage, CopyEnd::lease, elsewhere, nothing, true},
    {agent_stop, slow, locks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {agent_stop, slow, none, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {agent_stop, slow, volumes, kDead, kStorage, CopyEnd::bmc, elsewhere, nothing, false},
    {leash, answers, locks, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, true},
    {leash, answers, none, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, false},
    {leash, answers, volumes, kDead, kStorage, CopyEnd::watchdog, elsewhere, nothing, false},
    {leash, silent, locks, kDead, kAgent, CopyEnd::watchdog, after_boot, nothing, true},
    {leash, silent, none, kDead, kAgent, CopyEnd::watchdog, after_boot, nothing, false},
    {leash, silent, volumes, kDead, kStorage, CopyEnd::watchdog, elsewhere, nothing, true},
    {leash, lies, locks, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, true},
    {leash, lies, none, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, false},
    {leash, lies, volumes, kDead, kStorage, CopyEnd::watchdog, elsewhere, nothing, true},
    {leash, slow, locks, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, true},
    {leash, slow, none, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, false},
    {leash, slow, volumes, kDead, kStorage, CopyEnd::watchdog, elsewhere, nothing, false},
    {qemu, answers, locks, kHeard, kAgent, CopyEnd::fault, in_place, nothing, true},
    {qemu, answers, none, kHeard, kAgent, CopyEnd::fault, in_place, nothing, false},
    {qemu, answers, volumes, kHeard, kAgent, CopyEnd::fault, in_place, nothing, false},
    {qemu, silent, locks, kHeard, kAgent, CopyEnd::fault, in_place, nothing, true},
    {qemu, silent, none, kHeard, kAgent, CopyEnd::fault, in_place, nothing, false},
    {qemu, silent, volumes, kHeard, kAgent, CopyEnd::fault, in_place, nothing, false},
    {qemu, lies, locks, kHeard, kAgent, CopyEnd::fault, in_place, nothing, true},
    {qemu, lies, none, kHeard, kAgent, CopyEnd::fault, in_place, nothing, false},
    {qemu, lies, volumes, kHeard, kAgent, CopyEnd::fault, in_place, nothing, false},
    {qemu, slow, locks, kHeard, kAgent, CopyEnd::fault, in_place, nothing, true},
    {qemu, slow, none, kHeard, kAgent, CopyEnd::fault, in_place, nothing, false},
    {qemu, slow, volumes, kHeard, kAgent, CopyEnd::fault, in_place, nothing, false},
};
// clang-format on

constexpr const char* kHead = R"(# What becomes of a VM when its host fails

Written by `fault_table_test` from the data of `src/arch/hypervisor_clustering/fault_table.cc`; its
header says what each word means. `virgad sim --fault-table` prints it as JSON. Each row is a
scenario; those of the lab are tests with real guests too.

The host has a BMC, an armed leash and a watchdog. Without a BMC it fares as with a silent one, and
so it does with one that is slower than its lease. A BMC that lies about a host which nobody hears
cannot be told from one that says the truth: then the locks of the VM's disks are what keeps the new
copy from running beside the old one. Storage without locks together with a BMC that lies is the one
case in which a VM runs twice, until the lease of the old copy ends (*old copy* below). A VM whose
disks are volumes waits for neither BMC nor lease, and no lie can harm it: their storage cuts the
old copy off and says so, whatever that still does.

| fault | BMC | disks | host | old copy ended by | proof | VM starts | new copy meets | lab |
|---|---|---|---|---|---|---|---|---|
)";

std::string words(std::string_view name) {
  std::string text(name);
  std::replace(text.begin(), text.end(), '_', ' ');
  return text;
}

std::string_view disks(StorageConduct storage) {
  return storage == locks ? "files, locked" : storage == none ? "files, not locked" : "volumes";
}

/// A line for one row, or for two that differ in nothing but the locks.
std::string line_of(const FaultRow& row, bool with_and_without_locks) {
  const std::string_view storage = with_and_without_locks ? "files" : disks(row.storage);
  const char* host = row.dead ? "dead" : "alive";
  const char* lab = !row.lab ? "" : with_and_without_locks ? "locked" : "yes";
  return fmt::format("| {} | {} | {} | {} | {} | `{}` | {} | {} | {} |\n",
                     words(enum_name(row.fault)), enum_name(row.bmc), storage, host,
                     enum_name(row.ended_by), enum_name(row.proof), words(enum_name(row.restart)),
                     words(enum_name(row.meets)), lab);
}

}  // namespace

std::span<const FaultRow> fault_table() { return kRows; }

// Without a BMC and without a leash that could be trusted, the host's power is one more thing that
// nobody can know: as when the leash itself is what was lost.
const FaultRow& row_of_loss(const Host& host, const Machine* machine, StorageConduct storage) {
  const bool asked = machine != nullptr && machine->spec.bmc.protocol != BmcProtocol::none;
  const HostFault fault = asked || host.status.leash_armed ? power : leash;
  const BmcConduct bmc = asked ? answers : silent;
  return *std::find_if(std::begin(kRows), std::end(kRows), [&](const FaultRow& row) {
    return row.fault == fault && row.bmc == bmc && row.storage == storage;
  });
}

StorageConduct storage_without(const HostId& lost, const ClusterView& view, const Vm& vm) {
  const auto places = volumes_of(view, vm);
  if (!places || !storage_can_fence(view, vm)) return locks;
  const auto stays = [&](const ServedVolume& place) {
    const Device* device = view.devices.find(place.device);
    return place.host != lost && device != nullptr && device->status.available &&
           !device->spec.lost;
  };
  return each_volume(*places, stays) ? volumes : locks;
}

std::string name_of(const FaultRow& row) {
  std::string name = fmt::format("{}-bmc-{}-{}", enum_name(row.fault), enum_name(row.bmc),
                                 row.storage == volumes ? "volumes"
                                 : row.storage == locks ? "locks-on"
                                                        : "locks-off");
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string fault_table_markdown() {
  std::string text = kHead;
  const std::span<const FaultRow> rows = fault_table();
  for (std::size_t index = 0; index < rows.size(); ++index) {
    const FaultRow& row = rows[index];
    FaultRow unlocked = row;
    unlocked.storage = none;
    unlocked.lab = false;
    const bool pair =
        row.storage == locks && index + 1 < rows.size() && rows[index + 1] == unlocked;
    text += line_of(row, pair);
    if (pair) ++index;
  }
  return text;
}

}  // namespace virga
