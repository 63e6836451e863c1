#pragma once

#include <string>
#include <vector>

#include "driver/gateway_server.h"

namespace virga {

struct DnsmasqOptions {
  std::string program = "/usr/sbin/dnsmasq";
  std::string
      directory;  ///< of this gateway alone; readable by `user`, who reads it again at each change
  std::string network_namespace;  ///< path of the one that it is in for its life; empty = ours
  std::string user = "nobody";    ///< who it becomes; empty = stays us
  std::vector<std::string>
      resolvers{};  ///< IPv4; asked for names outside, when the network leads out
};

/// What dnsmasq reads.
struct DnsmasqFiles {
  std::string configuration;  ///< at its start
  std::string members;        ///< "MAC,ADDRESS"; at each SIGHUP
  std::string names;          ///< "ADDRESS NAME.DOMAIN"; the same
};

/// Everything of it becomes a part of these files: what is no plain address, MAC or name is refused.
/// Errors: invalid, naming the field and its value. Pure.
Result<DnsmasqFiles> render(const GatewaySpec& spec, const DnsmasqOptions& options);

}  // namespace virga
