#pragma once

#include <functional>
#include <map>
#include <memory>

#include "edge/http.h"
#include "server/core/agent_sessions.h"

namespace virga {

/// The agents' port: mutual TLS, one WebSocket per agent at /v1/agent, uploads beside it (kUploads), and POST /v1/join
/// for hosts that have no certificate yet. Carries messages between sockets and AgentSessions; decides nothing. Loop
/// thread only.
class AgentListener final : public HostLinks {
 public:
  using Join = std::function<void(HttpRequest request, std::shared_ptr<HttpReply> reply)>;

  /// `sessions` is told of connections once serve() was called.
  Result<void> listen(AsioLoop& loop, HttpServerOptions options, Join join);
  void serve(AgentSessions& sessions) { sessions_ = &sessions; }

  /// As HttpServer::use().
  Result<void> use(const TlsIdentity& identity) { return server_->use(identity); }

  void send(SessionId session, const ServerMessage& message) override;
  void close(SessionId session) override;

  std::uint16_t port() const { return server_->port(); }
  std::size_t connections() const { return sockets_.size(); }

 private:
  void handle(HttpRequest request, const std::shared_ptr<HttpReply>& reply);
  void take_upload(HttpRequest request, const std::shared_ptr<HttpReply>& reply);
  void received(SessionId session, const std::string& text);

  AgentSessions* sessions_ = nullptr;
  Join join_;
  std::map<SessionId, std::shared_ptr<MessageSocket>> sockets_;
  SessionId last_session_ = 0;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace virga
