#include "model/join.h"

#include <fmt/format.h>

#include "agent/protocol.h"
#include "server/api/rules.h"
#include "server/api/validate.h"

namespace virga::api {
namespace {

constexpr Duration kTokenLife = std::chrono::hours(1);

std::string token_key(const std::string& token) {
  return std::string(keys::kToken) + sha256_hex(token);
}

/// What is known before the decision on a join.
struct Join {
  JoinRequest request;
  std::string key;
  Revision token_revision = 0;
  JoinToken token;
  IssuedCertificate issued;
};

json::value answer_of(const Host& host, const IssuedCertificate& issued) {
  const TlsIdentity& identity = issued.identity;
  return to_json(JoinAnswer{host.id(), host.spec.cluster, identity.certificate,
                            identity.private_key, identity.trusted});
}

/// A host belongs to the cluster of its token for ever: neither a token of another tenant's cluster
/// nor a name that is taken elsewhere lets it slip into a cluster by accident.
Refusal check_join(const ClusterView& view, const Join& join) {
  const auto denied = [](std::string text) {
    return Problem{make_error(Errc::denied, std::move(text)), {}, 0};
  };
  const Cluster* cluster = view.clusters.find(join.token.cluster);
  if (cluster == nullptr || cluster->meta.deleting_at) {
    return denied("token: its cluster \"" + join.token.cluster.value +
                  "\" is gone; ask for a new token");
  }
  if (cluster->meta.tenant != join.token.tenant) {
    return denied(fmt::format("token: cluster \"{}\" has changed its owner; ask for a new token",
                              cluster->meta.name));
  }
  if (!join.request.cluster.empty() && join.request.cluster != join.token.cluster) {
    return denied(fmt::format("cluster: the token admits to cluster \"{}\", not to \"{}\"",
                              join.token.cluster.value, join.request.cluster.value));
  }
  const Host* host = view.hosts.find(join.request.host);
  if (host == nullptr) return std::nullopt;
  if (host->spec.cluster != join.token.cluster || host->meta.tenant != join.token.tenant) {
    return denied(
        fmt::format("host: \"{}\" is a member of cluster \"{}\"; the token admits to \"{}\"",
                    host->meta.name, host->spec.cluster.value, join.token.cluster.value));
  }
  if (host->status.health == HostHealth::alive || host->status.health == HostHealth::degraded) {
    return Problem{make_error(Errc::conflict,
                              fmt::format("host: \"{}\" is a member and alive; two machines cannot "
                                          "have one name",
                                          host->meta.name)),
                   {},
                   0};
  }
  return std::nullopt;
}

Decision decide_join(Engine& engine, const Call& call, const Join& join, const ClusterView& view) {
  if (auto refused = check_join(view, join)) return *refused;
  const Host* before = view.hosts.find(join.request.host);
  Host after = before != nullptr ? *before : Host{};
  after.meta.name = join.request.host.value;
  after.meta.tenant = join.token.tenant;
  after.spec.cluster = join.token.cluster;
  after.meta.created_at = engine.context().loop.wall_now();  // its certificates begin here
  const MachineId same_name(join.request.host.value);
  if (after.spec.machine.empty() && view.machines.find(same_name) != nullptr) {
    after.spec.machine = same_name;
  }
  Change change = change_of(engine, call, before, after, 201);
  const Cluster* cluster = view.clusters.find(join.token.cluster);
  change.guards.push_back({keys::of(cluster->id()), cluster->meta.revision});
  change.guards.push_back({join.key, join.token_revision});
  change.writes.push_back({join.key, std::nullopt});
  change.event =
      event_of("host.joined", change.primary, after.meta.tenant,
               fmt::format("host {} joined cluster {}", after.meta.name, cluster->meta.name));
  change.event->actor = "agent";
  change.event->facts["cluster"] = cluster->meta.name;
  change.body = answer_of(after, join.issued);
  return change;
}

void join_with_token(const EnginePtr& engine, const CallPtr& call, std::shared_ptr<Join> join) {
  engine->with_view(engine->committed(), [engine, call, join](const ClusterView& view) {
    if (auto refused = check_join(view, *join)) return engine->refuse(call, *refused);
    auto issued =
        engine->context().issue_certificate(join->request.host, join->request.addresses);
    if (!issued.ok()) return engine->refuse(call, issued.error());
    join->issued = std::move(*issued);
    auto tries = std::make_shared<int>(0);
    engine->submit(call, [engine, call, join, tries](const ClusterView& later) -> Decision {
      constexpr int kTriesMax = 4;
      if (++*tries > kTriesMax) {
        return Problem{
            make_error(Errc::unauthenticated, "token: was used by another host meanwhile"), {}, 0};
      }
      return decide_join(*engine, *call, *join, later);
    });
  });
}

Result<void> check_addresses(const std::vector<std::string>& addresses) {
  constexpr std::size_t kAddressesMax = 16;
  if (addresses.size() > kAddressesMax) {
    return make_error(Errc::invalid, "addresses: at most 16");
  }
  for (const std::string& address : addresses) {
    const bool odd = address.find_first_not_of("0123456789abcdef.:") != std::string::npos;
    if (address.empty() || address.size() > 45 || odd) {
      return make_error(Errc::invalid,
                        "addresses: \"" + address.substr(0, 80) + "\" is not an IP address");
    }
  }
  return {};
}

Result<JoinRequest> read_join(const Call& call) {
  auto body = read_body(call);
  if (!body.ok()) return body.error();
  auto request = from_json<JoinRequest>(json::value(std::move(*body)));
  if (!request.ok()) return request;
  if (auto named = check_name("host", request->host.value); !named.ok()) return named.error();
  if (request->token.empty() || request->token.size() > 128) {
    return make_error(Errc::unauthenticated,
                      "token: is missing; `virga cluster join-token CLUSTER` makes one");
  }
  if (auto sound = check_addresses(request->addresses); !sound.ok()) return sound.error();
  return request;
}

Result<RenewalRequest> read_renewal(const Call& call) {
  auto body = read_body(call);
  if (!body.ok()) return body.error();
  auto request = from_json<RenewalRequest>(json::value(std::move(*body)));
  if (!request.ok()) return request;
  if (auto sound = check_addresses(request->addresses); !sound.ok()) return sound.error();
  return request;
}

/// A certificate of an earlier host of the name, or of before this one joined anew, is renewed no
/// more: it may be in other hands.
Refusal check_renewal(const Host* host, const HttpRequest& request) {
  constexpr std::int64_t kMinute = 60'000;
  if (host == nullptr || host->meta.deleting_at) {
    return Problem{make_error(Errc::denied, "host: " + request.peer_name +
                                                " is no member; join it with a new token "
                                                "(virga cluster join-token CLUSTER)"),
                   {},
                   0};
  }
  if (request.peer_since.unix_ms + kMinute >= host->meta.created_at.unix_ms) return std::nullopt;
  return Problem{make_error(Errc::denied,
                            fmt::format("certificate: it was issued at {}, before host \"{}\" "
                                        "joined at {}",
                                        to_string(request.peer_since), host->meta.name,
                                        to_string(host->meta.created_at))),
                 {},
                 0};
}

/// Nothing of the host changes; its record is written again so that the journal tells of it.
Decision decide_renewal(const Call& call, const HostId& id, const IssuedCertificate& issued,
                        const ClusterView& view) {
  const Host* host = view.hosts.find(id);
  if (auto refused = check_renewal(host, call.request)) return *refused;
  Host same = *host;
  same.meta.revision = 0;
  same.meta.correlation = call.correlation;
  Change change;
  change.primary = keys::of(id);
  change.guards.push_back({change.primary, host->meta.revision});
  change.writes.push_back({change.primary, to_json_text(same)});
  change.status = 201;
  change.body = answer_of(same, issued);
  change.event = event_of("host.certificate_renewed", change.primary, same.meta.tenant,
                          "its agent's certificate is good until " + to_string(issued.ends));
  change.event->actor = "agent";
  return change;
}

}  // namespace

void make_join_token(const EnginePtr& engine, const CallPtr& call) {
  const ClusterId id(call->segments[1]);
  call->request.headers.erase("idempotency-key");  // the answer holds a secret: never stored
  const auto body = read_body(*call);
  if (!body.ok()) return engine->refuse(call, body.error());
  auto wanted = from_json<JoinToken>(json::value(*body));
  if (!wanted.ok()) return engine->refuse(call, wanted.error());
  const std::string token = random_secret();
  engine->context().store.grant(kTokenLife, [engine, call, id, token,
                                             wanted = *wanted](Result<StoreLeaseId> lease) {
    if (!lease.ok()) return engine->refuse(call, lease.error());
    engine->submit(call, [id, token, wanted, lease = *lease](const ClusterView& view) -> Decision {
      const Cluster* cluster = view.clusters.find(id);
      if (cluster == nullptr) return Problem{no_such<Cluster>(id.value), {}, 0};
      if (!wanted.tenant.empty() && wanted.tenant != cluster->meta.tenant) {
        return Problem{
            make_error(
                Errc::denied,
                fmt::format("tenant: cluster \"{}\" belongs to {}, not to \"{}\"", id.value,
                            cluster->meta.tenant.empty() ? "the cloud itself"
                                                         : "\"" + cluster->meta.tenant + "\"",
                            wanted.tenant)),
            {},
            0};
      }
      Change change;
      change.primary = token_key(token);
      change.guards.push_back({change.primary, 0});
      change.guards.push_back({keys::of(id), cluster->meta.revision});
      change.writes.push_back(
          {change.primary, to_json_text(JoinToken{id, cluster->meta.tenant}), lease});
      change.status = 201;
      change.body = json::object{{"token", token},
                                 {"cluster", id.value},
                                 {"valid_ms", to_ms(kTokenLife)}};
      change.event = event_of("cluster.join_token_made", keys::of(id), cluster->meta.tenant,
                              "a join token for cluster " + id.value + " was made");
      return change;
    });
  });
}

void join_host(const EnginePtr& engine, const CallPtr& call) {
  if (!engine->context().issue_certificate) {
    return engine->refuse(call, make_error(Errc::unsupported, "this server admits no hosts"));
  }
  call->request.headers.erase("idempotency-key");  // the answer holds a private key: never stored
  auto join = std::make_shared<Join>();
  auto request = read_join(*call);
  if (!request.ok()) return engine->refuse(call, request.error());
  join->request = std::move(*request);
  join->key = token_key(join->request.token);
  engine->context().store.get(join->key, [engine, call,
                                          join](Result<std::optional<KeyValue>> found) {
    if (!found.ok()) return engine->refuse(call, found.error());
    if (!found->has_value()) {
      return engine->refuse(call, make_error(Errc::unauthenticated,
                                             "token: is wrong, used or older than an hour; "
                                             "`virga cluster join-token CLUSTER` makes a new one"));
    }
    auto token = from_json_text<JoinToken>((*found)->value);
    if (!token.ok()) return engine->refuse(call, wrap_error("read " + join->key, token.error()));
    join->token = std::move(*token);
    join->token_revision = (*found)->modified;
    join_with_token(engine, call, join);
  });
}

void renew_certificate(const EnginePtr& engine, const CallPtr& call) {
  if (!engine->context().issue_certificate) {
    return engine->refuse(call, make_error(Errc::unsupported, "this server admits no hosts"));
  }
  call->request.headers.erase("idempotency-key");  // as of joining
  const std::string& peer = call->request.peer_name;
  if (!peer.starts_with(kAgentName)) {
    return engine->refuse(call, make_error(Errc::unauthenticated,
                                           "the certificate of a member is needed to renew it; who "
                                           "has none joins with a token"));
  }
  const auto request = read_renewal(*call);
  if (!request.ok()) return engine->refuse(call, request.error());
  const HostId id(peer.substr(kAgentName.size()));
  const auto issued = engine->context().issue_certificate(id, request->addresses);
  if (!issued.ok()) return engine->refuse(call, issued.error());
  engine->submit(call, [call, id, issued = *issued](const ClusterView& view) {
    return decide_renewal(*call, id, issued, view);
  });
}

}  // namespace virga::api
