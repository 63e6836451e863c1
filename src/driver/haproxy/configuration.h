#pragma once

#include <map>
#include <string>

#include "driver/load_balancer.h"

namespace virga {

struct HaproxyOptions {
  std::string program = "/usr/sbin/haproxy";
  std::string directory;          ///< of this balancer alone; made by apply(), removed by remove()
  std::string network_namespace;  ///< path of the one that it is in for its life; empty = ours
  std::string user = "haproxy";   ///< user and group of what serves clients; not root: stays us
  int threads = 1;                ///< that serve clients
  int connections_max =
      0;  ///< of all frontends together; 0 = as many as this process may have descriptors for
  Duration lingering = std::chrono::hours(1);  ///< of connections of before a reload
};

/// haproxy.cfg and the files that it names. Paths in it are relative to the balancer's directory.
struct HaproxyConfiguration {
  std::string
      shape;  ///< of all but the servers; another one needs a reload. Stands in the text as the description
  std::string text;
  std::map<std::string, std::string> certificates;  ///< path -> PEM; the name is the content's hash
};

/// Of a spec that validate() has passed. Pure.
HaproxyConfiguration render(const BalancerSpec& spec, const HaproxyOptions& options);

/// The words after the server's name, as the configuration and `add server` take them.
std::string server_words(const BalancerPool& pool, const BalancerServer& server);

/// The weight that the server has to have now: 0 takes nothing new.
int effective_weight(const BalancerServer& server);

/// The shape that stands in a configuration; empty = none.
std::string shape_in(const std::string& text);

}  // namespace virga
