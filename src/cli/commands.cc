#include "cli/command.h"

#include <fmt/format.h>

#include "cli/handlers.h"

namespace virga::cli {
namespace {

#define VIRGA_CLI_READ(call, plural) \
  [](Session& session, const Invocation& typed) { return call(session, typed, plural); }

#define VIRGA_CLI_KIND(plural)                                                    \
  KindRuns {                                                                      \
    VIRGA_CLI_READ(list_resources, plural), VIRGA_CLI_READ(get_resource, plural), \
        VIRGA_CLI_READ(delete_resource, plural)                                   \
  }

/// Of kinds that the API only reads.
#define VIRGA_CLI_READ_KIND(plural) \
  KindRuns { VIRGA_CLI_READ(list_resources, plural), VIRGA_CLI_READ(get_resource, plural), nullptr }

#define VIRGA_CLI_ACT(plural, action) \
  [](Session& session, const Invocation& typed) { return act(session, typed, plural, action); }

#define VIRGA_CLI_VM(action) \
  [](Session& session, const Invocation& typed) { return act_on_vm(session, typed, action); }

using Run = int (*)(Session&, const Invocation&);

struct KindRuns {
  Run list;
  Run get;
  Run remove;
};

Argument name_argument(bool owned) {
  return {"name", owned ? "TENANT/NAME" : "NAME", Takes::one, true, true};
}
Argument option(std::string name, std::string help, bool required = false) {
  return {std::move(name), std::move(help), Takes::one, required, false};
}
Argument many(std::string name, std::string help) {
  return {std::move(name), std::move(help), Takes::many, false, false};
}
Argument flag(std::string name, std::string help) {
  return {std::move(name), std::move(help), Takes::nothing, false, false};
}

/// list, get and, where `remove` is given, delete.
void add_kind(std::vector<Command>& all, const std::string& noun, bool owned,
              const KindRuns& runs) {
  all.push_back(
      {noun,
       "list",
       "list " + noun + "s; --watch follows changes",
       {option("tenant", "only this owner's"), option("labels", "NAME=VALUE,...: only these")},
       runs.list});
  all.push_back({noun, "get", "show one " + noun, {name_argument(owned)}, runs.get});
  if (runs.remove != nullptr) {
    all.push_back({noun, "delete", "delete a " + noun, {name_argument(owned)}, runs.remove});
  }
}

void add_tenant_commands(std::vector<Command>& all) {
  add_kind(all, "tenant", false, VIRGA_CLI_KIND("tenants"));
  all.push_back({"tenant",
                 "create",
                 "give a tenant a record of what holds for all that it has",
                 {name_argument(false),
                  many("region", "its guests and data may be in these only; none = anywhere"),
                  many("label", "NAME=VALUE")},
                 create_tenant});
  all.push_back({"tenant",
                 "regions",
                 "replace the regions that its guests and data may be in",
                 {name_argument(false), many("region", "in these only; none = anywhere")},
                 set_tenant_regions});
}

void add_cluster_commands(std::vector<Command>& all) {
  add_kind(all, "cluster", false, VIRGA_CLI_KIND("clusters"));
  all.push_back(
      {"cluster",
       "create",
       "make a cluster",
       {name_argument(false), option("shared-directory", "folder that every host mounts", true),
        option("tenant", "only this tenant's VMs"),
        option("failures-tolerated", "hosts that may be lost"),
        option("lease-ms", "how long a host may run VMs without the server"),
        option("heartbeat-ms", "between reports of a host"),
        option("image-mib-max", "largest image that is taken; default 40960"),
        many("floating-range", "addresses outside that tenants may have: 203.0.113.16/28"),
        many("label", "NAME=VALUE")},
       create_cluster});
  all.push_back({"cluster",
                 "floating-ranges",
                 "replace the addresses outside that tenants may have",
                 {name_argument(false), many("range", "203.0.113.16/28")},
                 set_floating_ranges});
  all.push_back({"cluster",
                 "arm",
                 "let high availability act",
                 {name_argument(false)},
                 VIRGA_CLI_ACT("clusters", "arm")});
  all.push_back({"cluster",
                 "disarm",
                 "let high availability rest",
                 {name_argument(false)},
                 VIRGA_CLI_ACT("clusters", "disarm")});
  all.push_back({"cluster",
                 "join-token",
                 "a one-time token for a new host",
                 {name_argument(false)},
                 make_join_token});
  all.push_back({"cluster",
                 "whatif",
                 "what the loss of each single host would lead to",
                 {name_argument(false)},
                 show_whatif});
}

void add_host_commands(std::vector<Command>& all) {
  add_kind(all, "host", false, VIRGA_CLI_KIND("hosts"));
  all.push_back({"host",
                 "peers",
                 "how a host sees the others",
                 {name_argument(false), option("agent-status",
                                               "the agent's status file, when the server is down;"
                                               " default /var/lib/virga/agent/run/status.json")},
                 show_peers});
  all.push_back({"host",
                 "maintenance",
                 "evacuate a host alive and place nothing there",
                 {name_argument(false)},
                 VIRGA_CLI_ACT("hosts", "maintenance")});
  all.push_back({"host",
                 "activate",
                 "end maintenance",
                 {name_argument(false)},
                 VIRGA_CLI_ACT("hosts", "activate")});
  all.push_back({"host",
                 "window",
                 "the times (UTC) at which a host is in maintenance by itself; none = never",
                 {name_argument(false), option("from", "hour and minute: 02:30"),
                  option("for-ms", "how long; default 3600000"),
                  many("day", "monday ... sunday; default: every day")},
                 set_host_window});
  all.push_back({"host",
                 "region",
                 "say in which region a host stands; none = in no region",
                 {name_argument(false), option("region", "its name")},
                 set_host_region});
  all.push_back({"host",
                 "confirm-off",
                 "vouch that a silent host runs nothing any more",
                 {name_argument(false)},
                 VIRGA_CLI_ACT("hosts", "confirm-off")});
  add_kind(all, "machine", false, VIRGA_CLI_KIND("machines"));
  all.push_back(
      {"machine",
       "create",
       "register bare metal",
       {name_argument(false), option("bmc-url", "http://.../redfish/v1/Systems/NAME", true),
        option("bmc-user", "user"), option("bmc-password-file", "file that holds the password"),
        many("label", "NAME=VALUE")},
       create_machine});
}

void add_image_and_network_commands(std::vector<Command>& all) {
  add_kind(all, "image", false, VIRGA_CLI_KIND("images"));
  all.push_back(
      {"image",
       "create",
       "register an image that lies in the shared directory",
       {name_argument(false),
        option("folder", "where it lies, SHARED/images/tiny; its manifest.json is read", true),
        option("path", "below the shared directory; default: images/ and the folder's name"),
        option("tenant", "only this tenant's VMs"), many("label", "NAME=VALUE")},
       create_image});
  all.push_back({"image",
                 "build",
                 "build the tiny guest from Debian packages",
                 {{"name", "tiny", Takes::one, true, true},
                  option("output", "folder that becomes the image", true),
                  option("guest", "the program virga-guest; default: beside this one"),
                  option("packages", "folder for downloaded packages")},
                 build_image});
  all.push_back({"image",
                 "import",
                 "check a disk image and take it over",
                 {{"name", "FILE", Takes::one, true, true},
                  option("images-folder", "SHARED/images", true),
                  option("as", "name of the image", true),
                  option("sha256", "expected checksum of the file"),
                  option("size-mib-max", "limit; the cluster's image_mib_max holds in any case")},
                 import_image_file});
  add_kind(all, "network", true, VIRGA_CLI_KIND("networks"));
  all.push_back(
      {"network",
       "create",
       "make a tenant's network",
       {name_argument(true), option("subnet", "10.50.0.0/24", true), option("cluster", "cluster"),
        option("vni", "VXLAN id; default: the server picks"), option("mtu", "bytes"),
        option("gateway", "none (default), local: addresses and names, nat: and a way out"),
        many("label", "NAME=VALUE")},
       create_network});
  add_kind(all, "port", true, VIRGA_CLI_READ_KIND("ports"));
}

void add_storage_commands(std::vector<Command>& all) {
  add_kind(all, "device", false, VIRGA_CLI_KIND("devices"));
  all.push_back({"device",
                 "create",
                 "register a part of a host's storage that shall hold volumes",
                 {name_argument(false), option("host", "whose agent serves it", true),
                  option("directory", "folder on that host; is made when it is not there", true),
                  option("capacity-mib", "of volumes that it may hold", true),
                  option("class", "storage class; default standard"),
                  option("copy-mib-per-second", "that a copy may write; default 100"),
                  many("label", "NAME=VALUE")},
                 create_device});
  all.push_back({"device",
                 "set",
                 "change what it may hold, or how fast copies that begin may write",
                 {name_argument(false), option("capacity-mib", "of volumes that it may hold"),
                  option("copy-mib-per-second", "that a copy may write")},
                 set_device});
  all.push_back({"device",
                 "lost",
                 "give up one that is away for ever, and what lies on it alone",
                 {name_argument(false)},
                 give_up_device});
  add_kind(all, "volume", true, VIRGA_CLI_KIND("volumes"));
  all.push_back({"volume",
                 "create",
                 "make a disk that outlives VMs and hosts",
                 {name_argument(true),
                  option("size-mib", "size; default with --from or --image: its size"),
                  option("from", "volume or snapshot of the tenant whose content it begins with"),
                  option("image", "image whose disk it begins with"),
                  option("class", "storage class; default standard, with --from its class"),
                  option("device", "on this device; default: the server chooses"),
                  flag("mirrored", "on devices of two hosts: it outlives the loss of one"),
                  flag("local", "on the host that runs its VM: it follows that, and goes with it"),
                  many("region", "it may be in these only, and its guest; default: its tenant's"),
                  option("cluster", "cluster; default: the only one"), many("label", "NAME=VALUE")},
                 create_volume});
  all.push_back({"volume",
                 "snapshot",
                 "keep what a volume holds now, also while a VM uses it",
                 {name_argument(true), option("of", "volume of the tenant", true),
                  many("label", "NAME=VALUE")},
                 snapshot_volume});
  all.push_back({"volume",
                 "grow",
                 "make it larger, also while a VM uses it",
                 {name_argument(true), option("size-mib", "new size", true)},
                 grow_volume});
  all.push_back({"volume",
                 "regions",
                 "replace the regions that it may be in, and its guest",
                 {name_argument(true), many("region", "in these only; none = its tenant's")},
                 set_volume_regions});
  all.push_back(
      {"volume",
       "move",
       "bring it to another device, while its VM uses it; back again ends a move that is not over",
       {name_argument(true), option("device", "where it shall be", true)},
       move_volume});
}

void add_security_group_commands(std::vector<Command>& all) {
  const Argument allow =
      many("allow",
           "DIRECTION[,PROTOCOL[,PORTS[,REMOTE]]]: ingress,tcp,80-443,10.50.0.0/24 or egress;"
           " the remote is a range or one of the tenant's groups");
  add_kind(all, "security-group", true, VIRGA_CLI_KIND("security_groups"));
  all.push_back({"security-group",
                 "create",
                 "make a security group; what is not allowed does not pass",
                 {name_argument(true), allow, many("label", "NAME=VALUE")},
                 create_security_group});
  all.push_back({"security-group",
                 "set",
                 "replace its rules, also of running VMs",
                 {name_argument(true), allow},
                 set_security_group});
}

void add_floating_address_commands(std::vector<Command>& all) {
  const Argument service = option("service", "service of the tenant instead");
  const Argument network =
      option("network", "on this network of it; default: its only one with a way out");
  add_kind(all, "floating-address", true, VIRGA_CLI_KIND("floating_addresses"));
  all.push_back({"floating-address",
                 "create",
                 "have an address outside",
                 {name_argument(true),
                  option("vm", "VM of the tenant that it leads to; default: to nobody"), service,
                  network, option("address", "this one; default: the server chooses"),
                  option("cluster", "cluster; default: the only one"), many("label", "NAME=VALUE")},
                 create_floating_address});
  all.push_back({"floating-address",
                 "lead",
                 "lead it to a VM or a service, away from the one before; also while they run",
                 {name_argument(true), option("vm", "VM of the tenant"), service, network},
                 lead_floating_address});
  all.push_back({"floating-address",
                 "release",
                 "lead it to nobody; the tenant keeps it",
                 {name_argument(true)},
                 release_floating_address});
}

/// What put_vm_size() reads, after `first`.
std::vector<Argument> with_vm_size(std::vector<Argument> first) {
  first.push_back(option("cpus", "processors"));
  first.push_back(option("millicores", "processor quota in thousandths of a core; 0: cpus * 1000"));
  first.push_back(option("weight", "share of a busy host's processors; default 100"));
  first.push_back(option("processes-max", "threads and processes of its hypervisor; default 256"));
  first.push_back(option("memory-mib", "memory"));
  first.push_back(option("priority", "restart priority: high, normal, low, none"));
  return first;
}

void add_vm_commands(std::vector<Command>& all) {
  add_kind(all, "vm", true, VIRGA_CLI_KIND("vms"));
  all.push_back(
      {"vm", "create", "make a VM",
       with_vm_size({name_argument(true), option("image", "image", true),
                     option("cluster", "cluster; default: the only one"),
                     many("network", "a NIC on this network of the tenant"),
                     option("root-volume", "this volume of the tenant as the root disk"),
                     many("volume", "a disk: this volume of the tenant"),
                     many("security-group", "a security group of all its NICs"),
                     option("apart", "word: VMs with the same word avoid one another's host"),
                     option("pin", "may run on this host only"),
                     many("host-device", "a device that this host offers; it then moves nowhere"),
                     many("parameter", "NAME=VALUE for the guest"),
                     option("user-data", "file for cloud-init in a disk image"),
                     many("label", "NAME=VALUE"), flag("stopped", "do not start it")}),
       create_vm});
  all.push_back({"vm",
                 "import",
                 "take over a VM of another system; --dry-run lists what will differ",
                 {name_argument(true), option("images-folder", "SHARED/images", true),
                  option("domain", "its description, as `virsh dumpxml` prints it"),
                  option("disk", "file of its first disk: qcow2 or raw; default: as described"),
                  many("network", "NAME, or SOURCE=NAME for what was on that network or bridge"),
                  option("as", "name of the image; default: the VM's"),
                  option("sha256", "expected checksum of the disk's file"),
                  option("cpus", "processors; default: as described"),
                  option("memory-mib", "memory; default: as described"),
                  option("cluster", "cluster; default: the only one"),
                  flag("accept-losses", "import it although its guest may miss something"),
                  flag("stopped", "do not start it")},
                 import_vm});
  all.push_back({"vm", "set",
                 "change its size; of a running VM quota, weight, processes and priority",
                 with_vm_size({name_argument(true)}), set_vm});
  all.push_back({"vm",
                 "groups",
                 "replace the security groups of all its NICs, also while it runs",
                 {name_argument(true), many("security-group", "none = open within its networks")},
                 set_vm_groups});
  all.push_back({"vm", "start", "let it run", {name_argument(true)}, VIRGA_CLI_VM("start")});
  all.push_back({"vm", "stop", "let it stop", {name_argument(true)}, VIRGA_CLI_VM("stop")});
  all.push_back({"vm",
                 "restart",
                 "stop it and start it again",
                 {name_argument(true)},
                 VIRGA_CLI_VM("restart")});
  all.push_back({"vm",
                 "migrate",
                 "move it alive",
                 {name_argument(true), option("host", "where to; default: the planner chooses")},
                 VIRGA_CLI_VM("migrate")});
  all.push_back({"vm", "console", "the last of its console", {name_argument(true)}, show_console});
}

void add_service_commands(std::vector<Command>& all) {
  add_kind(all, "service", true, VIRGA_CLI_KIND("services"));
  all.push_back(
      {"service",
       "create",
       "make copies of one VM behind one address",
       {name_argument(true),
        option("image", "of its copies", true),
        option("network", "of the tenant: its address and its copies are there", true),
        option("replicas", "copies; default 2"),
        option("port", "that consumers connect to; default 80"),
        option("copy-connections-max", "of one copy; more wait at the balancer; default: no limit"),
        option("guest-port", "that its guests listen on; default 80"),
        option("address", "that consumers connect to; default: the server picks"),
        option("protocol", "tcp or http; default tcp"),
        option("certificate", "PEM file of certificate, chain and key: TLS ends at the balancer"),
        option("check", "how copies are looked at: tcp or http; default tcp"),
        option("check-path", "http: what is asked for; default /"),
        option("relocation", "duplicate or live_migration; default duplicate"),
        flag("return-home", "what a maintenance moved comes back when it is over"),
        option("drain-ms", "for requests in flight before a copy goes; default 30000"),
        option("answer-ms", "within which a new copy must answer; default 120000"),
        option("cpus", "processors of a copy"),
        option("millicores", "processor quota of a copy in thousandths of a core"),
        option("memory-mib", "memory of a copy"),
        many("security-group", "a security group of its copies"),
        option("pin", "its copies may run on this host only"),
        many("parameter", "NAME=VALUE for the guests"),
        option("user-data", "file for cloud-init in a disk image"),
        option("cluster", "cluster; default: the only one"),
        many("label", "NAME=VALUE")},
       create_service});
  all.push_back({"service",
                 "relocate",
                 "replace one copy elsewhere; consumers notice nothing",
                 {name_argument(true), option("copy", "name of its VM; default: any that serves"),
                  option("host", "where to; default: the planner chooses"),
                  option("mode", "duplicate or live_migration; default: as its policy says"),
                  option("for-ms", "it comes back then; default: it stays")},
                 relocate_service});
  all.push_back({"service",
                 "certificate",
                 "show consumers another certificate; what is under way goes on with the old one",
                 {name_argument(true), option("file", "PEM: certificate, chain, private key"),
                  flag("none", "without TLS from now on")},
                 set_certificate});
  all.push_back({"service",
                 "weigh",
                 "change the share of new requests that one copy gets; its replacement inherits it",
                 {name_argument(true), option("copy", "name of its VM", true),
                  option("weight", "1 to 256, compared with the others'; at first 100", true)},
                 weigh_copy});
  all.push_back({"service",
                 "scale",
                 "change how many copies it has",
                 {name_argument(true), option("replicas", "copies", true)},
                 scale_service});
}

void add_level_commands(std::vector<Command>& all) {
  all.push_back(
      {"service",
       "objective",
       "say what is promised to its consumers; it is measured at its address from then on. "
       "What is left out stays",
       {name_argument(true),
        option("availability", "percent of the time: 99.9; 0 = nothing, and what was measured goes",
               true),
        option("response-ms", "what takes longer counts as no answer; at first 1000"),
        option("blackout-ms", "longest wait while a copy is relocated; at first 0 = no promise"),
        option("window-days", "days (UTC) over which it holds; at first 30"),
        option("every-ms", "how often it is asked; at first 1000")},
       set_objective});
  all.push_back({"service",
                 "level",
                 "how it stands against its objective: availability, budget, relocations",
                 {name_argument(true)},
                 show_level});
  all.push_back(
      {"service",
       "autoscale",
       "say what happens when demand is more than its copies are to carry",
       {name_argument(true), option("action", "scale, duplicate, live_migration or none", true),
        option("replicas-max", "scale: copies, with those that demand adds"),
        option("requests-max", "a second and copy"),
        option("cpu-percent-max", "of its copies' quotas together"),
        option("response-ms-max", "mean of what copies need"),
        option("queue-max", "requests that wait at the balancer; wants --copy-connections-max"),
        option("errors-percent-max", "of one copy's requests; that copy is replaced"),
        option("copy-connections-max", "of one copy; more wait at the balancer"),
        option("sustained-ms", "limits are means over this time; default 10000"),
        option("calm-ms", "so long demand must be low before a copy is withdrawn; default 300000"),
        option("cooldown-ms", "nothing is decided so long after copies changed; default 60000")},
       autoscale_service});
}

void add_work_commands(std::vector<Command>& all) {
  add_kind(all, "operation", false, VIRGA_CLI_READ_KIND("operations"));
  all.push_back({"operation",
                 "cancel",
                 "undo a running operation",
                 {name_argument(false)},
                 VIRGA_CLI_ACT("operations", "cancel")});
  all.push_back({"event",
                 "list",
                 "the journal; --watch follows it",
                 {option("kind", "beginning of the kind: host."), option("subject", "vm/acme/web"),
                  option("tenant", "only this tenant's"), option("after", "sequence"),
                  option("limit", "at most so many"), flag("newest", "newest first")},
                 list_events});
  all.push_back({"audit",
                 "verify",
                 "check that nobody has changed the journal; reads its file on this machine",
                 {{"name", "JOURNAL", Takes::one, false, true},
                  option("noted", "SEQUENCE:HASH, as an earlier audit has told")},
                 verify_audit});
  all.push_back({"whatif",
                 "cluster",
                 "what the loss of each single host would lead to",
                 {name_argument(false)},
                 show_whatif});
}

void add_usage_commands(std::vector<Command>& all) {
  const Argument csv = flag("csv", "print CSV");
  all.push_back(
      {"usage",
       "list",
       "pay-per-use records of whole days (UTC); default: today",
       {option("tenant", "only this tenant's"), option("vm", "TENANT/NAME: only this one"),
        option("volume", "TENANT/NAME: only this one"),
        option("service", "TENANT/NAME: only this one"), option("from", "day: 2026-11-01"),
        option("to", "the first day after"), csv},
       list_usage});
  all.push_back({"usage",
                 "points",
                 "what one used over time: vm/TENANT/NAME, volume/TENANT/NAME, "
                 "service/TENANT/NAME or host/NAME; default: the last hour",
                 {{"name", "KIND/NAME", Takes::one, true, true},
                  option("from", "2026-11-01 or 2026-11-01T12:00:00Z"),
                  option("to", "likewise"),
                  option("step", "seconds, a multiple of 10; below 300 for the last day alone")},
                 show_usage_points});
  all.push_back({"usage",
                 "bill",
                 "what a tenant owes for a month",
                 {option("tenant", "who", true), option("month", "2026-11", true), csv},
                 show_bill});
}

void add_lab_commands(std::vector<Command>& all) {
  all.push_back(
      {"lab", "status", "what the lab runs", {option("instance", "the lab's name")}, show_lab});
  all.push_back(
      {"lab",
       "fail",
       "break a host of the lab",
       {name_argument(false),
        option("how", "power, hang, link, link-out, link-in (or link-oneway), agent, leash, qemu",
               true),
        option("network", "management, storage, tenant, outside, all"),
        option("bmc", "answers, silent, lies, slow"),
        flag("hold", "agent, leash: stays down until heal"), option("instance", "the lab's name")},
       fail_lab});
  all.push_back({"lab",
                 "client",
                 "attach the lab's client to a tenant network: a place to probe guests from",
                 {{"network", "TENANT/NAME", Takes::one, true, true},
                  option("address", "A.B.C.D/N of the client there", true),
                  option("instance", "the lab's name")},
                 attach_lab_client});
  all.push_back({"lab",
                 "heal",
                 "undo all faults of a host or of all",
                 {{"name", "HOST", Takes::one, false, true}, option("instance", "the lab's name")},
                 heal_lab});
}

void add_other_commands(std::vector<Command>& all) {
  all.push_back({"",
                 "apply",
                 "make or change all resources of a manifest",
                 {option("file", "YAML or JSON; - is standard input", true)},
                 apply_file});
  all.push_back({"",
                 "join-token",
                 "a one-time token for a new host",
                 {{"name", "CLUSTER", Takes::one, true, true}},
                 make_join_token});
  all.push_back({"",
                 "backup",
                 "let the server write a backup",
                 {{"name", "NAME", Takes::one, false, true}},
                 write_backup});
  all.push_back({"",
                 "restore",
                 "make a store from a backup; the server must not run on it",
                 {{"name", "BACKUP", Takes::one, true, true},
                  option("to", "the new store's file"),
                  option("above", "highest incarnation that hosts have seen, in a new place"),
                  flag("verify", "read it whole and change nothing")},
                 restore_backup_file});
  all.push_back({"",
                 "sim",
                 "play scenarios: hands all that follows to `virgad sim`",
                 {{"arguments", "ARGUMENTS", Takes::many, false, true}},
                 run_simulator});
  all.push_back(
      {"",
       "completion",
       "print completion for bash: eval \"$(virga completion)\"",
       {},
       [](Session& session, const Invocation&) { return session.out(bash_completion()), 0; }});
  all.push_back({"",
                 "reference",
                 "print this reference as Markdown",
                 {},
                 [](Session& session, const Invocation&) { return session.out(reference()), 0; }});
  all.push_back({"", "version", "print the version", {}, [](Session& session, const Invocation&) {
                   return session.out("virga " VIRGA_VERSION "\n"), 0;
                 }});
}

}  // namespace

const std::vector<Command>& commands() {
  static const std::vector<Command> kCommands = [] {
    std::vector<Command> all;
    add_tenant_commands(all);
    add_cluster_commands(all);
    add_host_commands(all);
    add_image_and_network_commands(all);
    add_storage_commands(all);
    add_security_group_commands(all);
    add_floating_address_commands(all);
    add_vm_commands(all);
    add_service_commands(all);
    add_level_commands(all);
    add_work_commands(all);
    add_usage_commands(all);
    add_lab_commands(all);
    add_other_commands(all);
    return all;
  }();
  return kCommands;
}

const std::map<std::string, std::string>& nouns() {
  static const std::map<std::string, std::string> kNouns = {
      {"tenant", "who owns things, and what holds for all that they have"},
      {"cluster", "hosts that share storage, networks and a failover policy"},
      {"host", "machines that run VMs"},
      {"machine", "bare metal: identity and power"},
      {"image", "what VMs are made from"},
      {"network", "tenants' own networks"},
      {"port", "VMs' places on networks"},
      {"device", "what of hosts' storage holds volumes"},
      {"volume", "tenants' disks that outlive VMs and hosts"},
      {"security-group", "what VMs may exchange with others"},
      {"floating-address", "addresses outside that lead to VMs and services"},
      {"vm", "virtual machines"},
      {"service", "copies of a VM behind one address, moved without anyone noticing"},
      {"operation", "work under way and done"},
      {"event", "the journal"},
      {"usage", "what was used and what it costs"},
      {"audit", "proof that the journal was not changed"},
      {"whatif", "questions that change nothing"},
      {"lab", "faults in a running `virgad dev`"}};
  return kNouns;
}

const std::vector<Argument>& common_arguments() {
  static const std::vector<Argument> kCommon = {
      option("server", "URL of the API; also VIRGA_SERVER or ~/.config/virga/context.json"),
      option("output", "table, wide, json or yaml"),
      flag("wait", "return when the work is done"),
      option("timeout", "of --wait, in seconds"),
      flag("dry-run", "say what would be, change nothing"),
      flag("watch", "go on and show changes")};
  return kCommon;
}

int exit_code(Errc code) {
  switch (code) {
    case Errc::invalid:
      return 2;
    case Errc::not_found:
      return 3;
    case Errc::conflict:
    case Errc::exhausted:
    case Errc::cancelled:
    case Errc::fenced:
      return 4;
    case Errc::unavailable:
    case Errc::timeout:
      return 5;
    case Errc::unauthenticated:
    case Errc::denied:
      return 6;
    case Errc::unsupported:
    case Errc::internal:
      return 1;
  }
  return 1;
}

int fail(Session& session, const Error& error) {
  session.err("virga: " + error.text() + "\n");
  switch (error.code) {
    case Errc::unavailable:
      session.err("next: see that `virgad server` or `virgad dev` runs and listens there\n");
      break;
    case Errc::conflict:
      session.err("next: look with `get -o yaml`, then try again\n");
      break;
    case Errc::not_found:
      session.err("next: `list` shows what there is\n");
      break;
    default:
      break;
  }
  return exit_code(error.code);
}

}  // namespace virga::cli
