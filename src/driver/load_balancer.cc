#include "driver/load_balancer.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <map>
#include <set>

#include "model/meta.h"

namespace virga {
namespace {

constexpr std::size_t kFrontendsMax = 32;
constexpr std::size_t kPoolsMax = 32;
constexpr std::size_t kServersMax = 256;
constexpr std::size_t kCertificateBytesMax = 64 << 10;
constexpr std::size_t kPathBytesMax = 200;

Error wrong(const std::string& field, const std::string& value, const std::string& right) {
  return make_error(Errc::invalid, fmt::format("{}: {} {}", field, value, right));
}

Result<void> check_range(const std::string& field, std::int64_t value, std::int64_t low,
                         std::int64_t high) {
  if (value >= low && value <= high) return {};
  return wrong(field, std::to_string(value), fmt::format("is out of range: {} to {}", low, high));
}

Result<void> check_address(const std::string& field, const std::string& address) {
  in_addr parsed{};
  if (::inet_pton(AF_INET, address.c_str(), &parsed) == 1 && parsed.s_addr != 0) return {};
  return wrong(field, "\"" + address.substr(0, 80) + "\"", "is no IPv4 address such as 10.50.0.10");
}

Result<void> check_path(const std::string& field, const std::string& path) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/?=&";
  const bool right = !path.empty() && path.front() == '/' && path.size() <= kPathBytesMax &&
                     path.find_first_not_of(kPlain) == std::string::npos;
  if (right) return {};
  return wrong(
      field, "\"" + path.substr(0, 80) + "\"",
      fmt::format("is no path: '/' and up to {} of a-z, A-Z, 0-9 and -._~/?=&", kPathBytesMax));
}

Result<void> check_certificate(const std::string& field, const std::string& pem) {
  if (pem.empty()) return {};
  const bool right = pem.size() <= kCertificateBytesMax &&
                     pem.find("-----BEGIN CERTIFICATE-----") != std::string::npos &&
                     pem.find("PRIVATE KEY-----") != std::string::npos;
  if (right) return {};
  return wrong(field, fmt::format("a text of {} bytes", pem.size()),
               fmt::format("is no certificate with its private key: both in PEM, at most {} bytes",
                           kCertificateBytesMax));
}

/// The first error of several checks.
Result<void> first_of(std::initializer_list<Result<void>> checks) {
  for (const Result<void>& check : checks) {
    if (!check) return check;
  }
  return {};
}

Result<void> check_server(const std::string& field, const BalancerServer& server) {
  return first_of({check_name(field + ".name", server.name),
                   check_address(field + ".address", server.address),
                   check_range(field + ".port", server.port, 1, 65'535),
                   check_range(field + ".weight", server.weight, 1, 256),
                   check_range(field + ".connections_max", server.connections_max, 0, 100'000)});
}

Result<void> check_pool(const std::string& field, const BalancerPool& pool) {
  const BalancerCheck& check = pool.check;
  auto fine = first_of(
      {check_name(field + ".name", pool.name), check_path(field + ".check.path", check.path),
       check_range(field + ".check.interval_ms", to_ms(check.interval_ms), 50, 300'000),
       check_range(field + ".check.timeout_ms", to_ms(check.timeout_ms), 10, 60'000),
       check_range(field + ".check.fall", check.fall, 1, 100),
       check_range(field + ".check.rise", check.rise, 1, 100)});
  std::set<std::string> names;
  for (std::size_t index = 0; index < pool.servers.size() && fine; ++index) {
    const std::string inner = fmt::format("{}.servers[{}]", field, index);
    fine = check_server(inner, pool.servers[index]);
    if (fine && !names.insert(pool.servers[index].name).second) {
      fine = wrong(inner + ".name", "\"" + pool.servers[index].name + "\"",
                   "is there already: one name for each server of a pool");
    }
  }
  return fine;
}

Result<void> check_frontend(const std::string& field, const BalancerFrontend& frontend) {
  return first_of({check_name(field + ".name", frontend.name),
                   check_address(field + ".address", frontend.address),
                   check_range(field + ".port", frontend.port, 1, 65'535),
                   check_certificate(field + ".certificate", frontend.certificate),
                   check_range(field + ".connections_max", frontend.connections_max, 1, 100'000)});
}

/// What is right for each frontend by itself, between them and with their pools.
Result<void> check_frontends(const BalancerSpec& spec, const std::set<std::string>& pools) {
  std::set<std::string> names;
  std::set<std::string> places;
  std::map<std::string, BalancerProtocol> protocols;
  for (std::size_t index = 0; index < spec.frontends.size(); ++index) {
    const BalancerFrontend& frontend = spec.frontends[index];
    const std::string field = fmt::format("frontends[{}]", index);
    if (auto fine = check_frontend(field, frontend); !fine) return fine;
    if (!names.insert(frontend.name).second) {
      return wrong(field + ".name", "\"" + frontend.name + "\"", "is there already: names differ");
    }
    const std::string place = fmt::format("{}:{}", frontend.address, frontend.port);
    if (!places.insert(place).second) {
      return wrong(field + ".port", place, "has a frontend already: one for each address and port");
    }
    if (!pools.contains(frontend.pool)) {
      return wrong(field + ".pool", "\"" + frontend.pool.substr(0, 80) + "\"",
                   "is not there: the name of one of pools");
    }
    const auto [used, first] = protocols.emplace(frontend.pool, frontend.protocol);
    if (!first && used->second != frontend.protocol) {
      return wrong(field + ".protocol", std::string(enum_name(frontend.protocol)),
                   fmt::format("does not fit: another frontend uses pool \"{}\" with {}",
                               frontend.pool, enum_name(used->second)));
    }
  }
  return {};
}

}  // namespace

Result<void> validate(const BalancerSpec& spec) {
  std::size_t servers = 0;
  for (const BalancerPool& pool : spec.pools) servers += pool.servers.size();
  const auto size = [](std::size_t count) { return static_cast<std::int64_t>(count); };
  if (spec.revision == 0) return wrong("revision", "0", "is none: 1 and up");
  auto fine = first_of(
      {check_range("frontends, number of", size(spec.frontends.size()), 0, size(kFrontendsMax)),
       check_range("pools, number of", size(spec.pools.size()), 0, size(kPoolsMax)),
       check_range("servers of all pools, number of", size(servers), 0, size(kServersMax))});
  std::set<std::string> pools;
  for (std::size_t index = 0; index < spec.pools.size() && fine; ++index) {
    const std::string field = fmt::format("pools[{}]", index);
    fine = check_pool(field, spec.pools[index]);
    if (fine && !pools.insert(spec.pools[index].name).second) {
      fine = wrong(field + ".name", "\"" + spec.pools[index].name + "\"",
                   "is there already: names differ");
    }
  }
  return fine ? check_frontends(spec, pools) : fine;
}

}  // namespace virga
