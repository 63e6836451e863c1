#pragma once

#include <string>
#include <vector>

#include "base/reflect.h"
#include "model/meta.h"

namespace virga {

/// Seen from the VM: what comes to it, what it sends.
enum class RuleDirection { ingress, egress };
BOOST_DESCRIBE_ENUM(RuleDirection, ingress, egress)

enum class RuleProtocol { any, tcp, udp, icmp };
BOOST_DESCRIBE_ENUM(RuleProtocol, any, tcp, udp, icmp)

/// One kind of connection that is allowed; answers to it pass the other way.
struct SecurityRule {
  RuleDirection direction = RuleDirection::ingress;
  RuleProtocol protocol = RuleProtocol::any;
  int port_min = 0;          ///< first port that is connected to, of tcp and udp; 0 = all
  int port_max = 0;          ///< last one; 0 = port_min alone
  std::string remote;        ///< the other side: IPv4, "10.50.0.0/24" or "10.50.0.10"; empty = any
  std::string remote_group;  ///< instead of `remote`: members of this group of the same tenant

  friend bool operator==(const SecurityRule&, const SecurityRule&) = default;
};
BOOST_DESCRIBE_STRUCT(SecurityRule, (),
                      (direction, protocol, port_min, port_max, remote, remote_group))

struct SecurityGroupSpec {
  std::vector<SecurityRule> rules;  ///< at most 64
};
BOOST_DESCRIBE_STRUCT(SecurityGroupSpec, (), (rules))

/// What the ports that have it may exchange with others: what a rule of one of a port's groups allows, in both
/// directions nothing else. A port without groups is open within its network.
struct SecurityGroup {
  Meta meta;
  SecurityGroupSpec spec;

  SecurityGroupId id() const { return SecurityGroupId(qualified(meta.tenant, meta.name)); }
};
BOOST_DESCRIBE_STRUCT(SecurityGroup, (), (meta, spec))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<SecurityGroup>(const SecurityGroup&);
extern template Result<SecurityGroup> from_json<SecurityGroup>(const json::value&, UnknownFields);

}  // namespace virga
