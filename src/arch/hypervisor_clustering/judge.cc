#include "arch/hypervisor_clustering/planner.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "base/reflect.h"

namespace virga {
namespace {

HostChange unchanged(const Host& host) {
  return {host.id(), host.status.health, host.status.fence_proof, host.status.health_reason};
}

/// A host that was fenced is taken back when it comes as another boot, or when the same boot runs
/// nothing that
/// was taken from it: the revokes of the plan see to that.
HostChange judge_returning(const Host& host, const HostEvidence& evidence) {
  if (evidence.boot_id != host.status.boot_id) {
    return {host.id(), HostHealth::alive, FenceProof::none, "came back as another boot"};
  }
  return {host.id(), HostHealth::alive, FenceProof::none, "reports again"};
}

HostChange judge_reporting(const Host& host, const HostEvidence& evidence) {
  if (host.status.health == HostHealth::fenced || host.status.health == HostHealth::dead) {
    return judge_returning(host, evidence);
  }
  if (!evidence.degraded.empty()) {
    return {host.id(), HostHealth::degraded, FenceProof::none, evidence.degraded};
  }
  return {host.id(), HostHealth::alive, FenceProof::none, "reports arrive"};
}

/// What could still prove that it runs nothing any more.
std::string proofs_awaited(const Host& host, const HostEvidence& evidence, bool has_bmc) {
  std::vector<std::string> proofs;
  if (has_bmc) proofs.push_back("its management controller says that it is off");
  if (host.status.leash_armed && !evidence.lease_over)
    proofs.push_back("its lease ends, as its leash is armed");
  proofs.push_back("it reports as another boot");
  proofs.push_back("`virga host confirm-off " + host.meta.name + "`");
  std::string text;
  for (std::size_t index = 0; index < proofs.size(); ++index) {
    if (index > 0) text += index + 1 == proofs.size() ? " or " : ", ";
    text += proofs[index];
  }
  return text;
}

}  // namespace

HostChange judge_host(const Host& host, const HostEvidence& evidence, const ClusterPolicy& policy,
                      bool most_are_silent, bool has_bmc) {
  const HostHealth health = host.status.health;
  if (evidence.silence < policy.suspect_after_ms) {
    return evidence.reported ? judge_reporting(host, evidence) : unchanged(host);
  }
  // A server that has just begun to lead and hears few has not been there for long enough: its
  // hosts are on their way back.
  const bool awaited = !evidence.reported && evidence.silence < policy.lease_ms / 2;
  if (awaited && most_are_silent) return unchanged(host);
  if (health == HostHealth::fenced) return unchanged(host);
  if (!host.status.boot_id.empty() && host.spec.confirmed_off_boot_id == host.status.boot_id &&
      health >= HostHealth::suspect) {
    return {host.id(), HostHealth::fenced, FenceProof::operator_confirmed,
            "an operator confirmed that it is off"};
  }
  if (evidence.lease_over && host.status.leash_armed && !host.status.boot_id.empty()) {
    return {host.id(), HostHealth::fenced, FenceProof::lease_and_leash,
            "its lease and grace have ended and its leash was armed"};
  }
  if (health == HostHealth::dead) return unchanged(host);
  if (health == HostHealth::unknown && !evidence.reported) return unchanged(host);
  const HostChange suspect{host.id(), HostHealth::suspect, FenceProof::none,
                           "its reports are missing"};
  if (evidence.silence < policy.suspect_after_ms + policy.confirm_after_ms) return suspect;
  if (most_are_silent) {
    return {host.id(), HostHealth::suspect, FenceProof::none,
            "silent together with most hosts, which proves nothing: nothing of it is started "
            "elsewhere until " +
                proofs_awaited(host, evidence, has_bmc)};
  }
  if (evidence.observers > 0 && evidence.observers_silent < evidence.observers) {
    return {host.id(), HostHealth::suspect, FenceProof::none,
            fmt::format("reports are missing but {} of {} peers hear it: its link to the server",
                        evidence.observers - evidence.observers_silent, evidence.observers)};
  }
  if (evidence.observers == 0 && !evidence.lease_over) {
    return {host.id(), HostHealth::suspect, FenceProof::none,
            "reports are missing and no peer can be asked: waits for its lease to end"};
  }
  return {host.id(), HostHealth::dead, FenceProof::none,
          fmt::format("silent to the server and to all {} peers that probe it; its VMs start "
                      "elsewhere when {}",
                      evidence.observers, proofs_awaited(host, evidence, has_bmc))};
}

bool has_bmc(const ClusterView& view, const Host& host) {
  const Machine* machine = view.machines.find(host.spec.machine);
  return machine != nullptr && machine->spec.bmc.protocol != BmcProtocol::none;
}

bool is_let_go(const ClusterView& view, const Host& host, const HostEvidence& evidence) {
  if (!host.spec.maintenance || !evidence.vms.empty()) return false;
  return view.vms_on(host.id()).empty() && view.operations_on(host.id()).empty() &&
         view.devices.in<DevicesOnHost>(host.id()).empty();
}

bool wants_restart(const Vm& vm) {
  return vm.status.health == VmHealth::failing &&
         (vm.status.health_reason.starts_with(kGuestPanicked) ||
          vm.status.health_reason.starts_with(kWatchdogExpired));
}

std::string called_for(const Vm& vm, const Host* host, bool armed) {
  const bool leaves = host != nullptr && (host->spec.maintenance ||
                                          (host->status.health == HostHealth::degraded && armed));
  if (vm.meta.deleting_at) return "the VM is being deleted";
  if (vm.spec.power == DesiredPower::stopped) return "the VM shall stop";
  if (vm.spec.restart) return "the VM shall restart";
  if (leaves || (!vm.spec.move_to.empty() && vm.spec.move_to != vm.status.host))
    return "the VM shall leave its host";
  return {};
}

}  // namespace virga
