#include "server/agent_listener.h"

#include <fmt/format.h>

#include <charconv>

#include "base/log.h"
#include "base/reflect.h"

namespace virga {
namespace {

HttpResponse error_response(int status, const std::string& code, const std::string& text) {
  HttpResponse response;
  response.status = status;
  response.headers["content-type"] = "application/json";
  response.body = json::serialize(json::object{{"code", code}, {"text", text}});
  return response;
}

}  // namespace

Result<void> AgentListener::listen(AsioLoop& loop, HttpServerOptions options, Join join) {
  join_ = std::move(join);
  auto server = HttpServer::listen(loop, std::move(options),
                                   [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
                                     handle(std::move(request), reply);
                                   });
  if (!server) return server.error();
  server_ = std::move(*server);
  return {};
}

void AgentListener::handle(HttpRequest request, const std::shared_ptr<HttpReply>& reply) {
  const bool upload = request.path.starts_with(kUploads);
  if (!upload && request.path != "/v1/agent") return join_(std::move(request), reply);
  if (request.peer_name.empty()) {
    return reply->send(error_response(
        401, "unauthenticated", "a session needs the certificate that joining gave the host"));
  }
  if (sessions_ == nullptr) {
    return reply->send(error_response(503, "unavailable", "the server is still loading its state"));
  }
  if (upload) return take_upload(std::move(request), reply);
  const auto socket = reply->upgrade();
  if (socket == nullptr) return;
  const SessionId session = ++last_session_;
  sockets_[session] = socket;
  sessions_->opened(session, socket->peer_name());
  socket->on_message([this, session](const std::string& text) { received(session, text); });
  socket->on_closed([this, session](const std::string&) {
    if (sockets_.erase(session) > 0 && sessions_ != nullptr) sessions_->closed(session);
  });
}

void AgentListener::take_upload(HttpRequest request, const std::shared_ptr<HttpReply>& reply) {
  if (request.method != "POST") {
    return reply->send(error_response(405, "invalid", "an upload is a POST"));
  }
  const std::string_view number = std::string_view(request.path).substr(kUploads.size());
  std::uint64_t command = 0;
  const auto [end, failure] =
      std::from_chars(number.data(), number.data() + number.size(), command);
  if (failure != std::errc() || end != number.data() + number.size()) {
    return reply->send(error_response(
        400, "invalid", fmt::format("\"{}\" is not the number of a command", number)));
  }
  const auto taken = sessions_->uploaded(request.peer_name, command, std::move(request.body));
  if (!taken) return reply->send(error_response(404, "not_found", taken.error().text()));
  reply->send(HttpResponse{.status = 204});
}

void AgentListener::received(SessionId session, const std::string& text) {
  auto message = from_json_text<AgentMessage>(text, UnknownFields::ignore);
  if (!message) {
    log_line(LogLevel::warning, "session", "unreadable message: " + message.error().text());
    return close(session);
  }
  sessions_->received(session, std::move(*message));
}

void AgentListener::send(SessionId session, const ServerMessage& message) {
  const auto found = sockets_.find(session);
  if (found == sockets_.end()) return;
  if (auto sent = found->second->send(to_json_text(message)); !sent) {
    log_line(LogLevel::warning, "session", sent.error().text());
  }
}

void AgentListener::close(SessionId session) {
  const auto found = sockets_.find(session);
  if (found == sockets_.end()) return;
  const auto socket = found->second;
  socket->close();
}

}  // namespace virga
