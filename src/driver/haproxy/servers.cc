#include "driver/haproxy/servers.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <sstream>
#include <utility>

#include "driver/haproxy/configuration.h"

namespace virga {
namespace {

using ServerKey = std::pair<std::string, std::string>;  ///< pool, name

struct WantedServer {
  const BalancerPool* pool = nullptr;
  const BalancerServer* server = nullptr;
};

std::map<ServerKey, WantedServer> wanted_servers(const BalancerSpec& spec) {
  std::map<ServerKey, WantedServer> all;
  for (const BalancerPool& pool : spec.pools) {
    for (const BalancerServer& server : pool.servers) {
      all[{pool.name, server.name}] = {&pool, &server};
    }
  }
  return all;
}

std::string text_of(const HaproxyRow& row, const char* field) {
  const auto found = row.find(field);
  return found == row.end() ? std::string() : found->second;
}

std::int64_t number_of(const HaproxyRow& row, const char* field) {
  const std::string text = text_of(row, field);
  std::int64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

bool is_frontend(const HaproxyRow& row) { return text_of(row, "svname") == "FRONTEND"; }
bool is_pool(const HaproxyRow& row) { return text_of(row, "svname") == "BACKEND"; }
bool is_server(const HaproxyRow& row) { return !is_frontend(row) && !is_pool(row); }

ServerKey key_of(const HaproxyRow& row) { return {text_of(row, "pxname"), text_of(row, "svname")}; }

/// "MAINT" with or without a reason.
bool in_maintenance(const HaproxyRow& row) { return text_of(row, "status").rfind("MAINT", 0) == 0; }

std::string place_of(const BalancerServer& server) {
  return fmt::format("{}:{}", server.address, server.port);
}

constexpr int kAllThatWait = 100'000;

/// HAProxy 2.6 gives a server that joins nothing while requests wait for others, unless its bound
/// of connections is set: then it looks at the queue.
void take_from_queue(const BalancerServer& server, const std::string& name,
                     std::vector<std::string>& commands) {
  if (server.connections_max == 0) return;  // nobody waits
  commands.push_back(fmt::format("set maxconn server {} {}", name, server.connections_max));
}

void add_server(const WantedServer& wanted, const std::string& name,
                std::vector<std::string>& commands) {
  commands.push_back(
      fmt::format("add server {} {}", name, server_words(*wanted.pool, *wanted.server)));
  // It begins in maintenance and is not looked at.
  commands.push_back("enable health " + name);
  if (wanted.server->state == BalancerServerState::maintenance) return;
  commands.push_back(fmt::format("set server {} state ready", name));
  if (effective_weight(*wanted.server) > 0) take_from_queue(*wanted.server, name, commands);
}

void change_server(const BalancerServer& wanted, const HaproxyRow& row, const std::string& name,
                   std::vector<std::string>& commands) {
  const auto set = [&](const std::string& words) {
    commands.push_back(fmt::format("set server {} {}", name, words));
  };
  const bool off = wanted.state == BalancerServerState::maintenance;
  if (off && !in_maintenance(row)) set("state maint");
  if (text_of(row, "addr") != place_of(wanted)) {
    set(fmt::format("addr {} port {}", wanted.address, wanted.port));
  }
  const std::int64_t weight = number_of(row, "uweight");
  if (weight != effective_weight(wanted)) set(fmt::format("weight {}", effective_weight(wanted)));
  const std::int64_t bound = number_of(row, "slim");
  if (bound != wanted.connections_max) {
    // Without a bound it never looks at the queue again: what waits is let in first.
    if (wanted.connections_max == 0) {
      commands.push_back(fmt::format("set maxconn server {} {}", name, kAllThatWait));
    }
    commands.push_back(fmt::format("set maxconn server {} {}", name, wanted.connections_max));
  }
  if (!off && in_maintenance(row)) set("state ready");
  const bool joins = weight == 0 || in_maintenance(row);
  if (!off && joins && effective_weight(wanted) > 0) take_from_queue(wanted, name, commands);
}

ObservedBalancerServer server_of(const HaproxyRow& row) {
  ObservedBalancerServer seen;
  std::tie(seen.pool, seen.name) = key_of(row);
  const std::string status = text_of(row, "status");
  if (status.rfind("UP", 0) == 0 || status.rfind("DRAIN", 0) == 0) seen.health = BalancerHealth::up;
  if (status.rfind("DOWN", 0) == 0) seen.health = BalancerHealth::down;
  if (number_of(row, "uweight") == 0) seen.state = BalancerServerState::drain;
  if (in_maintenance(row)) seen.state = BalancerServerState::maintenance;
  seen.sessions = number_of(row, "scur");
  seen.total = number_of(row, "stot");
  seen.errors = number_of(row, "econ") + number_of(row, "eresp");
  const bool http = text_of(row, "mode") == "http";
  seen.response_time_ms = number_of(row, http ? "rtime" : "ctime");
  return seen;
}

ObservedBalancerFrontend frontend_of(const HaproxyRow& row) {
  const bool http = text_of(row, "mode") == "http";
  ObservedBalancerFrontend seen;
  seen.name = text_of(row, "pxname");
  seen.requests_per_second = number_of(row, http ? "req_rate" : "rate");
  seen.sessions = number_of(row, "scur");
  seen.total = number_of(row, http ? "req_tot" : "stot");
  seen.errors_5xx = number_of(row, "hrsp_5xx");
  return seen;
}

/// What connections of before the last reload are still doing.
void add_old_sessions(const HaproxyRows& old, std::map<ServerKey, ObservedBalancerServer>& servers,
                      std::map<std::string, ObservedBalancerFrontend>& frontends) {
  for (const HaproxyRow& row : old) {
    const std::int64_t sessions = number_of(row, "scur");
    if (sessions == 0 || is_pool(row)) continue;
    if (is_frontend(row)) {
      ObservedBalancerFrontend& seen = frontends[text_of(row, "pxname")];
      seen.name = text_of(row, "pxname");
      seen.sessions += sessions;
      continue;
    }
    ObservedBalancerServer gone;
    std::tie(gone.pool, gone.name) = key_of(row);
    gone.state = BalancerServerState::maintenance;
    servers.try_emplace(key_of(row), gone).first->second.sessions += sessions;
  }
}

}  // namespace

std::vector<std::string> commands_for(const BalancerSpec& spec, const HaproxyRows& rows) {
  auto missing = wanted_servers(spec);
  std::vector<std::string> staying;
  std::vector<std::string> leaving;
  for (const HaproxyRow& row : rows) {
    if (!is_server(row)) continue;
    const ServerKey key = key_of(row);
    const std::string name = key.first + "/" + key.second;
    const auto wanted = missing.find(key);
    if (wanted != missing.end()) {
      const BalancerServer& server = *wanted->second.server;
      change_server(server, row, name,
                    server.state == BalancerServerState::ready ? staying : leaving);
      missing.erase(wanted);
    } else if (!in_maintenance(row)) {
      leaving.push_back(fmt::format("set server {} state maint", name));
    }
  }
  // Who comes, comes before another goes: there is always one that can answer.
  std::vector<std::string> all;
  for (const auto& [key, wanted] : missing) add_server(wanted, key.first + "/" + key.second, all);
  all.insert(all.end(), staying.begin(), staying.end());
  all.insert(all.end(), leaving.begin(), leaving.end());
  return all;
}

std::size_t count_unwanted(const BalancerSpec& spec, const HaproxyRows& rows) {
  const auto wanted = wanted_servers(spec);
  return static_cast<std::size_t>(std::count_if(
      rows.begin(), rows.end(),
      [&](const HaproxyRow& row) { return is_server(row) && !wanted.contains(key_of(row)); }));
}

ObservedBalancer to_observed(const BalancerSpec& spec, const HaproxyRows& rows,
                             const HaproxyRows& old) {
  std::map<ServerKey, ObservedBalancerServer> servers;
  std::map<std::string, ObservedBalancerPool> pools;
  std::map<std::string, ObservedBalancerFrontend> frontends;
  for (const HaproxyRow& row : rows) {
    const std::string proxy = text_of(row, "pxname");
    if (is_frontend(row)) {
      frontends[proxy] = frontend_of(row);
    } else if (is_pool(row)) {
      pools[proxy] = {proxy, number_of(row, "qcur")};
    } else {
      servers[key_of(row)] = server_of(row);
    }
  }
  add_old_sessions(old, servers, frontends);
  ObservedBalancer seen;
  const auto wanted = wanted_servers(spec);
  for (auto& [key, server] : servers) {
    if (wanted.contains(key) || server.sessions > 0) seen.servers.push_back(std::move(server));
  }
  for (auto& [name, pool] : pools) seen.pools.push_back(std::move(pool));
  for (auto& [name, frontend] : frontends) seen.frontends.push_back(std::move(frontend));
  return seen;
}

std::string keep_down_servers(const BalancerSpec& spec, const std::string& state) {
  constexpr std::size_t kOperational = 5;
  constexpr std::size_t kAdministrative = 6;
  constexpr std::size_t kPort = 18;
  constexpr int kForcedMaintenance = 1;
  const auto wanted = wanted_servers(spec);
  std::istringstream lines(state);
  std::string line;
  std::string kept;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    const std::vector<std::string> fields{std::istream_iterator<std::string>(words), {}};
    const bool head = line == "1" || line.rfind("# ", 0) == 0;
    if (head) kept += line + "\n";
    if (head || fields.size() <= kPort) continue;
    const auto server = wanted.find({fields[1], fields[3]});
    const bool same = server != wanted.end() &&
                      place_of(*server->second.server) == fields[4] + ":" + fields[kPort];
    const bool off = (std::atoi(fields[kAdministrative].c_str()) & kForcedMaintenance) != 0;
    if (same && !off && fields[kOperational] == "0") kept += line + "\n";
  }
  return kept;
}

}  // namespace virga
