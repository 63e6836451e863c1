#pragma once

#include <boost/describe.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/meta.h"

/// How an agent becomes a member: POST /v1/join on the agents' port, TLS without a client certificate.
namespace virga {

struct JoinRequest {
  std::string token;                   ///< one-time, from `virga cluster join-token`
  HostId host;                         ///< the name that the host shall have
  ClusterId cluster;                   ///< what the agent expects; empty = whatever the token says
  std::vector<std::string> addresses;  ///< for the certificate: where peers and the server reach this host
};
BOOST_DESCRIBE_STRUCT(JoinRequest, (), (token, host, cluster, addresses))

/// Where a member POSTs for another certificate on the agents' port, with the one that it has. Its answer is a
/// JoinAnswer, too.
constexpr std::string_view kRenewal = "/v1/renew-certificate";

struct RenewalRequest {
  std::vector<std::string> addresses;  ///< as in JoinRequest
};
BOOST_DESCRIBE_STRUCT(RenewalRequest, (), (addresses))

struct JoinAnswer {
  HostId host;
  ClusterId cluster;
  std::string certificate;  ///< PEM, common name "agent:HOST"
  std::string private_key;  ///< PEM
  std::string trusted;      ///< PEM: the cloud's authority
};
BOOST_DESCRIBE_STRUCT(JoinAnswer, (), (host, cluster, certificate, private_key, trusted))

/// Stored under keys::kToken + SHA-256 of the token, with a lease that ends it.
struct JoinToken {
  ClusterId cluster;
  std::string tenant;  ///< the cluster's owner at the time; empty = the cloud itself
};
BOOST_DESCRIBE_STRUCT(JoinToken, (), (cluster, tenant))

}  // namespace virga
