#include "lab/network.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "agent/gateway_folders.h"
#include "edge/network_namespace.h"
#include "edge/process.h"

namespace virga {

namespace {

using Words = std::vector<std::string>;
using Lines = std::vector<std::string>;

constexpr Duration kToolDeadline = seconds(20);
constexpr LabNetworkName kNetworks[] = {LabNetworkName::management, LabNetworkName::storage,
                                        LabNetworkName::tenant, LabNetworkName::outside};
constexpr const char* kNamespaceFolder = "/run/netns";

struct NetworkNames {
  const char* bridge;
  const char* device;  ///< in the host
  char letter;         ///< ends the name of the host's port on the switch
};

NetworkNames names_of(LabNetworkName network) {
  switch (network) {
    case LabNetworkName::storage:
      return {"storage", "stor0", 's'};
    case LabNetworkName::tenant:
      return {"tenant", "ten0", 't'};
    case LabNetworkName::outside:
      return {"outside", "out0", 'o'};
    default:
      return {"management", "mgmt0", 'm'};
  }
}

std::string port_of(int index, LabNetworkName network) {
  return "h" + std::to_string(index) + names_of(network).letter;
}

/// A machine keeps its cards when its power is cut: its neighbours find it again at once.
std::string card_of(int index, LabNetworkName network) {
  return fmt::format("02:76:00:{:02x}:{:02x}:{:02x}", static_cast<int>(network), index >> 8,
                     index & 0xff);
}

std::vector<LabNetworkName> expand(LabNetworkName network) {
  if (network != LabNetworkName::all) return {network};
  return {std::begin(kNetworks), std::end(kNetworks)};
}

std::string find_program(const std::string& name) {
  for (const char* folder : {"/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"}) {
    if (access((folder + name).c_str(), X_OK) == 0) return folder + name;
  }
  return {};
}

std::string joined(const Words& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

struct RunOptions {
  int network_namespace = -1;
  int input = -1;  ///< becomes /dev/fd/3 of the program
};

Result<void> run(Words words, const RunOptions& more = {}) {
  const std::string shown = joined(words).substr(0, 300);
  const std::string program = find_program(words.front());
  if (program.empty()) {
    return make_error(Errc::unsupported, "run " + words.front() +
                                             ": not installed; Debian has it in the packages "
                                             "iproute2 and nftables");
  }
  ProcessOptions options;
  words.front() = program;
  options.arguments = std::move(words);
  options.environment = {{"PATH", "/usr/sbin:/usr/bin:/sbin:/bin"}};
  options.network_namespace = more.network_namespace;
  if (more.input >= 0) options.descriptors = {{3, more.input}};
  auto done = run_process(options, kToolDeadline);
  if (!done) return wrap_error(shown, done.error());
  if (done->exit.code == 0) return {};
  const bool denied = done->err.find("not permitted") != std::string::npos ||
                      done->err.find("denied") != std::string::npos;
  return make_error(denied ? Errc::denied : Errc::internal, shown + ": " + done->err);
}

/// Many commands by one process. `name_space` empty = the root namespace.
Result<void> ip_batch(const std::string& name_space, const Lines& lines) {
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  const Descriptor file(memfd_create("virga-lab-ip", MFD_CLOEXEC));
  const auto size = static_cast<ssize_t>(text.size());
  if (!file.valid() || write(file.get(), text.data(), text.size()) != size) {
    return make_error(Errc::exhausted, std::string("write commands of ip: ") + strerror(errno));
  }
  Words words{"ip"};
  if (!name_space.empty()) words.insert(words.end(), {"-n", name_space});
  words.insert(words.end(), {"-batch", "/dev/fd/3"});
  auto done = run(words, RunOptions{-1, file.get()});
  return done ? done : wrap_error("\"" + joined(lines).substr(0, 400) + "\"", done.error());
}

/// ip_batch() in the root namespace, for lines that name new ones.
Result<void> ip_batch_of_names(const Lines& lines) {
  const auto lock = lock_namespace_folder(kNamespaceFolder);
  return lock ? ip_batch("", lines) : lock.error();
}

std::string bridge_line(const std::string& name) {
  return "link add " + name + " type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
}

/// One end of a new cable to the switch in `name_space`, the other, `port`, on the bridge.
Lines port_lines(const std::string& port, const std::string& bridge) {
  return {"link set " + port + " master " + bridge, "link set " + port + " up"};
}

bool overlaps(const std::string& prefix, std::uint32_t address) {
  int first = 0;
  int second = 0;
  if (sscanf(prefix.c_str(), "%d.%d", &first, &second) != 2) return true;
  return address >> 16 ==
         (static_cast<std::uint32_t>(first) << 8 | static_cast<std::uint32_t>(second));
}

/// Addresses and route destinations of the root namespace, the default route left out.
std::vector<std::uint32_t> addresses_in_use() {
  std::vector<std::uint32_t> found;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) == 0) {
    for (const ifaddrs* at = list; at != nullptr; at = at->ifa_next) {
      if (at->ifa_addr == nullptr || at->ifa_addr->sa_family != AF_INET) continue;
      found.push_back(ntohl(reinterpret_cast<const sockaddr_in*>(at->ifa_addr)->sin_addr.s_addr));
    }
    freeifaddrs(list);
  }
  std::ifstream routes("/proc/net/route");
  std::string line;
  std::getline(routes, line);
  while (std::getline(routes, line)) {
    char device[64];
    unsigned destination = 0;
    if (sscanf(line.c_str(), "%63s %x", device, &destination) != 2 || destination == 0) continue;
    found.push_back(ntohl(destination));
  }
  return found;
}

bool namespace_exists(const std::string& name) {
  return access((std::string(kNamespaceFolder) + "/" + name).c_str(), F_OK) == 0;
}

bool link_exists(const std::string& name) { return if_nametoindex(name.c_str()) != 0; }

}  // namespace

Result<int> open_namespace(const std::string& name) {
  const std::string path = std::string(kNamespaceFolder) + "/" + name;
  const int opened = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (opened >= 0) return opened;
  return make_error(Errc::not_found, "open the network namespace " + path + ": " + strerror(errno));
}

Result<std::string> LabNetwork::free_prefix(const std::set<std::string>& others) {
  constexpr int kFirst = 77;
  constexpr int kLast = 99;
  const auto used = addresses_in_use();
  for (int second = kFirst; second <= kLast; ++second) {
    const std::string prefix = "10." + std::to_string(second);
    const bool taken = std::any_of(used.begin(), used.end(), [&prefix](std::uint32_t address) {
      return overlaps(prefix, address);
    });
    if (!taken && !others.contains(prefix)) return prefix;
  }
  return make_error(Errc::exhausted,
                    "choose addresses for the lab: each of 10.77.0.0/16 to 10.99.0.0/16 is in use "
                    "on this machine");
}

Result<void> LabNetwork::create() {
  const std::string sw = plan_.switch_namespace();
  auto done = ip_batch_of_names(
      {"netns add " + sw, "netns add " + plan_.bmc_namespace(),
       "netns add " + plan_.client_namespace(),
       "link add " + plan_.server_link() + " type veth peer name server netns " + sw,
       "link add " + plan_.bmc_link() + " type veth peer name bmc0 netns " + plan_.bmc_namespace(),
       "addr add " + plan_.server_address() + "/24 dev " + plan_.server_link(),
       "link set " + plan_.server_link() + " up",
       "addr add " + plan_.prefix + ".3.1/24 dev " + plan_.bmc_link(),
       "link set " + plan_.bmc_link() + " up"});
  if (!done) return done;
  Lines lines{"link set lo up"};
  for (const LabNetworkName network : kNetworks) {
    const std::string bridge = names_of(network).bridge;
    lines.push_back(bridge_line(bridge));
    lines.push_back("link set " + bridge + " up");
  }
  for (auto& line : port_lines("server", "management")) lines.push_back(line);
  lines.push_back("link add client type veth peer name ten0 netns " + plan_.client_namespace());
  for (auto& line : port_lines("client", "tenant")) lines.push_back(line);
  lines.push_back("link add client-out type veth peer name out0 netns " + plan_.client_namespace());
  for (auto& line : port_lines("client-out", "outside")) lines.push_back(line);
  if (done = ip_batch(sw, lines); !done) return done;
  done = ip_batch(
      plan_.client_namespace(),
      {"link set lo up", "addr add " + plan_.client_address() + "/24 dev ten0", "link set ten0 up",
       "addr add " + plan_.client_outside_address() + "/24 dev out0", "link set out0 up"});
  if (!done) return done;
  lines = {"link set lo up", "link set bmc0 up"};
  for (int index = 1; index <= plan_.hosts; ++index) {
    lines.push_back("addr add " + plan_.bmc_address(index) + "/24 dev bmc0");
  }
  return ip_batch(plan_.bmc_namespace(), lines);
}

Result<void> LabNetwork::plug_host(int index) {
  const std::string host = plan_.host_namespace(index);
  Lines at_switch;
  Lines inside{"link set lo up"};
  const std::map<LabNetworkName, std::string> addresses{
      {LabNetworkName::management, plan_.management_address(index)},
      {LabNetworkName::storage, plan_.storage_address(index)},
      {LabNetworkName::tenant, plan_.tenant_address(index)},
      {LabNetworkName::outside, plan_.outside_address(index)}};
  for (const LabNetworkName network : kNetworks) {
    const auto names = names_of(network);
    const std::string port = port_of(index, network);
    const std::string device = names.device;
    at_switch.push_back("link add " + port + " type veth peer name " + device + " address " +
                        card_of(index, network) + " netns " + host);
    at_switch.push_back("link set " + port + " master " + names.bridge);
    at_switch.push_back("link set " + port + (cut_.contains({index, network}) ? " down" : " up"));
    inside.push_back("addr add " + addresses.at(network) + "/24 dev " + device);
    inside.push_back("link set " + device + " up");
  }
  auto done = ip_batch_of_names({"netns add " + host});
  if (done) done = ip_batch(plan_.switch_namespace(), at_switch);
  return done ? ip_batch(host, inside) : done;
}

Result<void> LabNetwork::cut_all(int index) {
  Lines lines;
  for (const LabNetworkName network : kNetworks) {
    lines.push_back("link set " + port_of(index, network) + " down");
  }
  return ip_batch(plan_.switch_namespace(), lines);
}

// The ports are removed by name first: a namespace's own end is cleaned up by the kernel some time
// later, and then the same names could not be used again at once.
Result<void> LabNetwork::unplug_host(int index) {
  Lines lines;
  for (const LabNetworkName network : kNetworks) {
    lines.push_back("link del " + port_of(index, network));
  }
  auto done = ip_batch(plan_.switch_namespace(), lines);
  const std::string host = plan_.host_namespace(index);
  Lines root{"netns del " + host};
  for (const std::string& name : namespaces_of(plan_.instance)) {
    if (name.starts_with(host + "-")) root.push_back("netns del " + name);
  }
  return done ? ip_batch("", root) : done;
}

Result<void> LabNetwork::set_cut(int index, LabNetworkName network, bool cut) {
  Lines lines;
  for (const LabNetworkName one : expand(network)) {
    if (cut == cut_.contains({index, one})) continue;
    if (cut)
      cut_.insert({index, one});
    else
      cut_.erase({index, one});
    lines.push_back("link set " + port_of(index, one) + (cut ? " down" : " up"));
  }
  const bool plugged = namespace_exists(plan_.host_namespace(index));
  return lines.empty() || !plugged ? Result<void>() : ip_batch(plan_.switch_namespace(), lines);
}

Result<void> LabNetwork::set_one_way(int index, LabNetworkName network, LinkDirection direction,
                                     bool cut) {
  Ports& ports = direction == LinkDirection::to_host ? lost_to_host_ : lost_from_host_;
  const std::size_t before = ports.size();
  for (const LabNetworkName one : expand(network)) {
    if (cut)
      ports.insert({index, one});
    else
      ports.erase({index, one});
  }
  return before == ports.size() ? Result<void>() : apply_one_way();
}

// The rules stand in the switch, where the host's own network stack can neither see nor change
// them.
Result<void> LabNetwork::apply_one_way() const {
  std::string drops;
  for (const auto& [side, ports] :
       {std::pair("oifname", &lost_to_host_), std::pair("iifname", &lost_from_host_)}) {
    for (const auto& [index, network] : *ports) {
      drops += std::string(side) + " \"" + port_of(index, network) + "\" drop; ";
    }
  }
  std::string rules = "add table bridge lab; delete table bridge lab;";
  if (!drops.empty()) {
    rules +=
        " table bridge lab { chain forward { type filter hook forward priority 0; policy accept; " +
        drops + "}; }";
  }
  auto opened = open_namespace(plan_.switch_namespace());
  if (!opened) return opened.error();
  const Descriptor name_space(*opened);
  return run({"nft", rules}, RunOptions{name_space.get(), -1});
}

std::vector<std::string> LabNetwork::names(const Ports& ports, int index) {
  std::vector<std::string> found;
  for (const auto& [host, network] : ports) {
    if (host == index) found.emplace_back(boost::describe::enum_to_string(network, "?"));
  }
  return found;
}

Result<LabClientPort> LabNetwork::attach_client(std::uint32_t vni, const std::string& address) {
  if (vni == 0 || vni >= 1u << 24) {
    return make_error(Errc::invalid,
                      "attach the client to VNI " + std::to_string(vni) + ": it is 1 to 16777215");
  }
  const LabClientPort port{
      "vx" + std::to_string(vni),
      fmt::format("52:54:ff:{:02x}:{:02x}:{:02x}", vni >> 16, vni >> 8 & 255, vni & 255),
      plan_.client_address()};
  const std::string& device = port.device;
  const std::string name_space = plan_.client_namespace();
  [[maybe_unused]] const auto removed = run({"ip", "-n", name_space, "link", "del", device});
  auto done = ip_batch(name_space, {"link add " + device + " mtu 1450 address " + port.mac +
                                        " type vxlan id " + std::to_string(vni) + " local " +
                                        plan_.client_address() + " dstport 4789 nolearning",
                                    "link set " + device + " up"});
  // The caller's text goes to ip as one argument, not into a batch.
  if (done) done = run({"ip", "-n", name_space, "addr", "add", address, "dev", device});
  for (int index = 1; index <= plan_.hosts && done; ++index) {
    done = run({"bridge", "-n", name_space, "fdb", "append", "00:00:00:00:00:00", "dev", device,
                "dst", plan_.tenant_address(index), "self", "permanent"});
  }
  if (!done) return done.error();
  return port;
}

std::vector<std::string> LabNetwork::namespaces_of(const std::string& instance) {
  std::vector<std::string> found;
  std::error_code error;
  const std::string start = "vg-" + instance + "-";
  for (const auto& entry : std::filesystem::directory_iterator(kNamespaceFolder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(start, 0) == 0) found.push_back(name);
  }
  std::sort(found.begin(), found.end());
  return found;
}

Result<void> LabNetwork::remove_all(const std::string& instance) {
  const LabPlan plan{instance};
  Lines lines;
  for (const std::string& link : {plan.server_link(), plan.bmc_link()}) {
    if (link_exists(link)) lines.push_back("link del " + link);
  }
  for (const std::string& name : namespaces_of(instance)) lines.push_back("netns del " + name);
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(kGatewayFolder, failed)) {
    const bool its = entry.path().filename().string().starts_with("vg-" + instance + "-");
    if (its) std::filesystem::remove_all(entry.path(), failed);
  }
  auto removed = lines.empty() ? Result<void>() : ip_batch("", lines);
  drop_unused_namespace_folder(kNamespaceFolder);
  return removed;
}

}  // namespace virga
