#include "driver/haproxy/configuration.h"

#include <fmt/format.h>

#include <algorithm>

#include <set>

#include "edge/tls.h"

namespace virga {
namespace {

constexpr const char* kDescription = "  description ";

constexpr const char* kDefaults = R"(
defaults
  load-server-state-from-file global
  timeout connect 2s
  timeout queue 30s
  timeout http-request 10s
  timeout http-keep-alive 60s
  timeout tunnel 1h
  retries 3
  option redispatch 1
)";

const char* algorithm_words(BalanceAlgorithm algorithm) {
  if (algorithm == BalanceAlgorithm::least_connections) return "leastconn";
  if (algorithm == BalanceAlgorithm::source_address) return "source";
  return "roundrobin";
}

const char* idle_words(BalancerProtocol protocol) {
  return protocol == BalancerProtocol::http ? "60s" : "1h";
}

std::string global_section(const BalancerSpec& spec, const HaproxyOptions& options) {
  std::int64_t connections = 100;  // of those who look at it
  for (const BalancerFrontend& frontend : spec.frontends) connections += frontend.connections_max;
  if (options.connections_max > 0) {
    connections = std::min<std::int64_t>(connections, options.connections_max);
  }
  std::string text = fmt::format(
      "  stats socket unix@runtime.sock mode 600 level admin expose-fd listeners\n"
      "  server-state-file servers.state\n"
      "  hard-stop-after {}ms\n  mworker-max-reloads 50\n  nbthread {}\n  maxconn {}\n",
      to_ms(options.lingering), options.threads, connections);
  if (!options.user.empty()) text += fmt::format("  user {0}\n  group {0}\n", options.user);
  return text;
}

std::string certificate_path(const BalancerFrontend& frontend) {
  return "certificates/" + sha256_hex(frontend.certificate) + ".pem";
}

std::string frontend_section(const BalancerFrontend& frontend) {
  const bool http = frontend.protocol == BalancerProtocol::http;
  const bool tls = !frontend.certificate.empty();
  std::string bind = fmt::format("{}:{}", frontend.address, frontend.port);
  if (tls) bind += " ssl crt " + certificate_path(frontend);
  if (tls && http) bind += " alpn h2,http/1.1";
  std::string text = fmt::format(
      "\nfrontend {}\n  mode {}\n  bind {}\n  maxconn {}\n  timeout client {}\n"
      "  default_backend {}\n",
      frontend.name, enum_name(frontend.protocol), bind, frontend.connections_max,
      idle_words(frontend.protocol), frontend.pool);
  if (!http) return text;
  // A reload lets clients that keep their connection ask once more before it is closed.
  text += "  option idle-close-on-response\n  option forwardfor\n";
  text += fmt::format("  http-request set-header X-Forwarded-Proto {}\n", tls ? "https" : "http");
  return text;
}

std::string pool_section(const BalancerPool& pool, bool http) {
  const auto protocol = http ? BalancerProtocol::http : BalancerProtocol::tcp;
  std::string text = fmt::format(
      "\nbackend {}\n  mode {}\n  balance {}\n  hash-type consistent\n  timeout server {}\n"
      "  timeout check {}ms\n",
      pool.name, enum_name(protocol), algorithm_words(pool.algorithm), idle_words(protocol),
      to_ms(pool.check.timeout_ms));
  if (http) {
    // What was sent already goes to another server only when that cannot do anything twice.
    text +=
        "  retry-on conn-failure empty-response\n"
        "  http-request disable-l7-retry unless { method GET HEAD OPTIONS }\n";
  }
  if (pool.check.protocol == BalancerProtocol::http) {
    text += fmt::format("  option httpchk GET {}\n  http-check expect status 200-399\n",
                        pool.check.path);
  }
  // Belongs to the shape: a server keeps the check that it began with.
  text += fmt::format("  default-server inter {} fall {} rise {}\n", to_ms(pool.check.interval_ms),
                      pool.check.fall, pool.check.rise);
  return text;
}

std::string server_lines(const BalancerPool& pool) {
  std::string text;
  for (const BalancerServer& server : pool.servers) {
    const bool off = server.state == BalancerServerState::maintenance;
    text += fmt::format("  server {} {}{}\n", server.name, server_words(pool, server),
                        off ? " disabled" : "");
  }
  return text;
}

}  // namespace

int effective_weight(const BalancerServer& server) {
  return server.state == BalancerServerState::drain ? 0 : server.weight;
}

std::string server_words(const BalancerPool& pool, const BalancerServer& server) {
  return fmt::format("{}:{} check inter {} fall {} rise {} weight {} maxconn {}", server.address,
                     server.port, to_ms(pool.check.interval_ms), pool.check.fall, pool.check.rise,
                     effective_weight(server), server.connections_max);
}

HaproxyConfiguration render(const BalancerSpec& spec, const HaproxyOptions& options) {
  HaproxyConfiguration made;
  std::set<std::string> http_pools;
  std::string frontends;
  for (const BalancerFrontend& frontend : spec.frontends) {
    frontends += frontend_section(frontend);
    if (frontend.protocol == BalancerProtocol::http) http_pools.insert(frontend.pool);
    if (!frontend.certificate.empty()) {
      made.certificates[certificate_path(frontend)] = frontend.certificate;
    }
  }
  const std::string global = global_section(spec, options);
  std::string shape = global + kDefaults + frontends;
  std::string pools;
  for (const BalancerPool& pool : spec.pools) {
    const std::string section = pool_section(pool, http_pools.contains(pool.name));
    shape += section;
    pools += section + server_lines(pool);
  }
  made.shape = sha256_hex(shape);
  made.text =
      "global\n" + (kDescription + made.shape) + "\n" + global + kDefaults + frontends + pools;
  return made;
}

std::string shape_in(const std::string& text) {
  const std::size_t at = text.find(kDescription);
  if (at == std::string::npos) return {};
  const std::size_t begin = at + std::string_view(kDescription).size();
  return text.substr(begin, text.find('\n', begin) - begin);
}

}  // namespace virga
