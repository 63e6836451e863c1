#include "arch/hypervisor_clustering/fault_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/reflect.h"

namespace virga {
namespace {

using enum HostFault;
using enum BmcConduct;
using enum RestartPlace;
using enum NewCopyMeets;
constexpr bool kLocks = true;
constexpr bool kNoLocks = false;
constexpr bool kDead = true;
constexpr bool kHeard = false;
constexpr FenceProof kOff = FenceProof::bmc_power_off;
constexpr FenceProof kLease = FenceProof::lease_and_leash;
constexpr FenceProof kAgent = FenceProof::agent_confirmed_stop;

// clang-format off
constexpr FaultRow kRows[] = {
    // fault, BMC, locks; held for dead, proof, old copy ended by, restart, new copy meets; lab
    {power, answers, kLocks, kDead, kOff, CopyEnd::fault, elsewhere, nothing, true},
    {power, answers, kNoLocks, kDead, kOff, CopyEnd::fault, elsewhere, nothing, false},
    {power, silent, kLocks, kDead, kLease, CopyEnd::fault, elsewhere, nothing, true},
    {power, silent, kNoLocks, kDead, kLease, CopyEnd::fault, elsewhere, nothing, false},
    {power, lies, kLocks, kDead, kOff, CopyEnd::fault, elsewhere, nothing, true},
    {power, lies, kNoLocks, kDead, kOff, CopyEnd::fault, elsewhere, nothing, false},
    {power, slow, kLocks, kDead, kOff, CopyEnd::fault, elsewhere, nothing, true},
    {power, slow, kNoLocks, kDead, kOff, CopyEnd::fault, elsewhere, nothing, false},
    {hang, answers, kLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {hang, answers, kNoLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {hang, silent, kLocks, kDead, kLease, CopyEnd::watchdog, elsewhere, nothing, true},
    {hang, silent, kNoLocks, kDead, kLease, CopyEnd::watchdog, elsewhere, nothing, false},
    {hang, lies, kLocks, kDead, kOff, CopyEnd::watchdog, elsewhere, lock, true},
    {hang, lies, kNoLocks, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, false},
    {hang, slow, kLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {hang, slow, kNoLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {link, answers, kLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {link, answers, kNoLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {link, silent, kLocks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, true},
    {link, silent, kNoLocks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, false},
    {link, lies, kLocks, kDead, kOff, CopyEnd::lease, elsewhere, lock, true},
    {link, lies, kNoLocks, kDead, kOff, CopyEnd::lease, elsewhere, old_copy, false},
    {link, slow, kLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {link, slow, kNoLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {link_out, answers, kLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {link_out, answers, kNoLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {link_out, silent, kLocks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, true},
    {link_out, silent, kNoLocks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, false},
    {link_out, lies, kLocks, kDead, kOff, CopyEnd::lease, elsewhere, lock, true},
    {link_out, lies, kNoLocks, kDead, kOff, CopyEnd::lease, elsewhere, old_copy, false},
    {link_out, slow, kLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {link_out, slow, kNoLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {link_in, answers, kLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {link_in, answers, kNoLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {link_in, silent, kLocks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, true},
    {link_in, silent, kNoLocks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, false},
    {link_in, lies, kLocks, kDead, kOff, CopyEnd::lease, elsewhere, lock, true},
    {link_in, lies, kNoLocks, kDead, kOff, CopyEnd::lease, elsewhere, old_copy, false},
    {link_in, slow, kLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {link_in, slow, kNoLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {agent, answers, kLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {agent, answers, kNoLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {agent, silent, kLocks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, true},
    {agent, silent, kNoLocks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, false},
    {agent, lies, kLocks, kDead, kOff, CopyEnd::lease, elsewhere, lock, true},
    {agent, lies, kNoLocks, kDead, kOff, CopyEnd::lease, elsewhere, old_copy, false},
    {agent, slow, kLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {agent, slow, kNoLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {agent_stop, answers, kLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {agent_stop, answers, kNoLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {agent_stop, silent, kLocks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, true},
    {agent_stop, silent, kNoLocks, kDead, kLease, CopyEnd::lease, elsewhere, nothing, false},
    {agent_stop, lies, kLocks, kDead, kOff, CopyEnd::lease, elsewhere, lock, true},
    {agent_stop, lies, kNoLocks, kDead, kOff, CopyEnd::lease, elsewhere, old_copy, false},
    {agent_stop, slow, kLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, true},
    {agent_stop, slow, kNoLocks, kDead, kOff, CopyEnd::bmc, elsewhere, nothing, false},
    {leash, answers, kLocks, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, true},
    {leash, answers, kNoLocks, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, false},
    {leash, silent, kLocks, kDead, kAgent, CopyEnd::watchdog, after_boot, nothing, true},
    {leash, silent, kNoLocks, kDead, kAgent, CopyEnd::watchdog, after_boot, nothing, false},
    {leash, lies, kLocks, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, true},
    {leash, lies, kNoLocks, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, false},
    {leash, slow, kLocks, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, true},
    {leash, slow, kNoLocks, kDead, kOff, CopyEnd::watchdog, elsewhere, nothing, false},
    {qemu, answers, kLocks, kHeard, kAgent, CopyEnd::fault, in_place, nothing, true},
    {qemu, answers, kNoLocks, kHeard, kAgent, CopyEnd::fault, in_place, nothing, false},
    {qemu, silent, kLocks, kHeard, kAgent, CopyEnd::fault, in_place, nothing, true},
    {qemu, silent, kNoLocks, kHeard, kAgent, CopyEnd::fault, in_place, nothing, false},
    {qemu, lies, kLocks, kHeard, kAgent, CopyEnd::fault, in_place, nothing, true},
    {qemu, lies, kNoLocks, kHeard, kAgent, CopyEnd::fault, in_place, nothing, false},
    {qemu, slow, kLocks, kHeard, kAgent, CopyEnd::fault, in_place, nothing, true},
    {qemu, slow, kNoLocks, kHeard, kAgent, CopyEnd::fault, in_place, nothing, false},
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
case in which a VM runs twice, until the lease of the old copy ends (*old copy* below).

| fault | BMC | disk locks | host | old copy ended by | proof | VM starts | new copy meets | lab |
|---|---|---|---|---|---|---|---|---|
)";

std::string words(std::string_view name) {
  std::string text(name);
  std::replace(text.begin(), text.end(), '_', ' ');
  return text;
}

/// A line for one row, or for two that differ in nothing but the locks.
std::string line_of(const FaultRow& row, bool with_and_without_locks) {
  const char* locks = with_and_without_locks ? "on or off" : row.locks ? "on" : "off";
  const char* host = row.dead ? "dead" : "alive";
  const char* lab = !row.lab ? "" : with_and_without_locks ? "locks on" : "yes";
  return fmt::format("| {} | {} | {} | {} | {} | `{}` | {} | {} | {} |\n",
                     words(enum_name(row.fault)), enum_name(row.bmc), locks, host,
                     enum_name(row.ended_by), enum_name(row.proof), words(enum_name(row.restart)),
                     words(enum_name(row.meets)), lab);
}

}  // namespace

std::span<const FaultRow> fault_table() { return kRows; }

// Without a BMC and without a leash that could be trusted, the host's power is one more thing that
// nobody can know: as when the leash itself is what was lost.
const FaultRow& row_of_loss(const Host& host, const Machine* machine) {
  const bool asked = machine != nullptr && machine->spec.bmc.protocol != BmcProtocol::none;
  const HostFault fault = asked || host.status.leash_armed ? power : leash;
  const BmcConduct bmc = asked ? answers : silent;
  return *std::find_if(std::begin(kRows), std::end(kRows), [&](const FaultRow& row) {
    return row.fault == fault && row.bmc == bmc && row.locks;
  });
}

std::string name_of(const FaultRow& row) {
  std::string name = fmt::format("{}-bmc-{}-locks-{}", enum_name(row.fault), enum_name(row.bmc),
                                 row.locks ? "on" : "off");
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string fault_table_markdown() {
  std::string text = kHead;
  const std::span<const FaultRow> rows = fault_table();
  for (std::size_t index = 0; index < rows.size(); ++index) {
    const FaultRow& row = rows[index];
    FaultRow unlocked = row;
    unlocked.locks = false;
    unlocked.lab = false;
    const bool pair = row.locks && index + 1 < rows.size() && rows[index + 1] == unlocked;
    text += line_of(row, pair);
    if (pair) ++index;
  }
  return text;
}

}  // namespace virga
