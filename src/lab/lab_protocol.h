#pragma once

#include <boost/describe.hpp>
#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <vector>

/// What `virga lab`, the lab's BMCs and `virgad dev` say to each other: JSON, one request and one reply a connection
/// of a unix socket (SOCK_SEQPACKET, see lab_socket_path()), at most 64 KiB each.
namespace virga {

constexpr std::size_t kLabMessageBytesMax = 64 << 10;
constexpr const char* kLabInstanceDefault = "dev";

/// How a host fails.
enum class LabFault {
  power,     ///< links down, then every process killed: not one packet leaves
  hang,      ///< every process frozen, the leash too
  link,      ///< a network's cable is out
  link_out,  ///< frames from the host are lost, frames to it arrive
  link_in,   ///< frames to the host are lost, frames from it arrive
  agent,     ///< the agent killed; started again after 1 s unless held down
  leash,     ///< the leash killed; likewise
  qemu,      ///< every hypervisor process killed
  none,      ///< only the BMC's mode changes
};
BOOST_DESCRIBE_ENUM(LabFault, power, hang, link, link_out, link_in, agent, leash, qemu, none)

enum class LabNetworkName { management, storage, tenant, outside, all };
BOOST_DESCRIBE_ENUM(LabNetworkName, management, storage, tenant, outside, all)

/// How a host's BMC behaves. Source: facts of real controllers, see RedfishBmc.
enum class BmcMode {
  answers,
  silent,  ///< takes connections and never answers
  lies,    ///< accepts commands, does nothing and says that it is done
  slow,    ///< every answer takes 3 s
};
BOOST_DESCRIBE_ENUM(BmcMode, answers, silent, lies, slow)

enum class LabRequestKind { status, fail, heal, attach_client, power_on, powered_off };
BOOST_DESCRIBE_ENUM(LabRequestKind, status, fail, heal, attach_client, power_on, powered_off)

struct LabRequest {
  LabRequestKind kind = LabRequestKind::status;
  std::string host;  ///< "host-1" or, for fail power|hang and heal, "server"; heal: empty = all
  LabFault how = LabFault::power;
  LabNetworkName network = LabNetworkName::all;
  std::string bmc;    ///< a BmcMode; empty = leave it
  bool hold = false;  ///< agent, leash: stays down until heal
  std::uint32_t vni = 0;
  std::string address;  ///< attach_client: "10.50.0.250/24"
};
BOOST_DESCRIBE_STRUCT(LabRequest, (), (kind, host, how, network, bmc, hold, vni, address))

struct LabReply {
  std::string error_code;  ///< to_string(Errc); empty = done
  std::string error;
  boost::json::value result;
};
BOOST_DESCRIBE_STRUCT(LabReply, (), (error_code, error, result))

struct LabHostStatus {
  std::string name;
  bool powered = false;
  bool frozen = false;
  std::string boot_id;
  std::string bmc = "answers";
  std::int64_t agent_pid = 0;  ///< 0 = does not run
  std::int64_t leash_pid = 0;
  std::vector<std::string> held_down;  ///< programs that wait for heal
  std::vector<std::string> cut;        ///< networks without a link
  std::vector<std::string> deaf;       ///< networks that lose frames to the host
  std::vector<std::string> mute;       ///< networks that lose frames from the host
  std::string address;
  std::string tenant_address;
  std::string network_namespace;
  std::string cgroup;  ///< empty = it has none, see LabStatus::limits
};
BOOST_DESCRIBE_STRUCT(LabHostStatus, (),
                      (name, powered, frozen, boot_id, bmc, agent_pid, leash_pid, held_down, cut,
                       deaf, mute, address, tenant_address, network_namespace, cgroup))

struct LabStatus {
  std::string instance;
  std::string phase;  ///< starting, running or stopping
  std::string api;    ///< "http://127.0.0.1:7070"
  std::string data;
  std::string shared;
  std::string cluster;
  std::int64_t server_pid = 0;
  bool server_frozen = false;
  std::string limits;  ///< of what hosts declare: "enforced", or "not enforced" without control groups
  /// Begins a command that is to run inside the lab's own namespaces, where its pids, addresses and network
  /// namespaces are; empty = they are this machine's.
  std::string enter;
  std::string client_namespace;
  std::vector<LabHostStatus> hosts;
};
BOOST_DESCRIBE_STRUCT(LabStatus, (),
                      (instance, phase, api, data, shared, cluster, server_pid, server_frozen,
                       limits, enter, client_namespace, hosts))

}  // namespace virga
