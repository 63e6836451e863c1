#pragma once

#include <memory>
#include <string>
#include <utility>

#include "agent/agent_core.h"
#include "base/rng.h"
#include "edge/http.h"

namespace virga {

struct AgentConnectionOptions {
  std::string server;  ///< "wss://10.77.0.1:7443"
  TlsIdentity tls;
  Duration retry_first = milliseconds(
      250);  ///< doubles up to retry_max; each wait is shortened at random by up to half
  Duration retry_max =
      seconds(2);  ///< well below a lease: a server that is back must be found in time
};

/// How long an agent waits before it tries again after `failures` attempts in a row that failed.
Duration wait_before_retry(const AgentConnectionOptions& options, int failures, Rng& jitter);

/// The one outbound WebSocket of an agent. Opens again by itself after it was lost, with jitter, so that a restarted
/// server is not run over. Loop thread only.
class AgentConnection final : public AgentLink {
 public:
  AgentConnection(AsioLoop& loop, AgentConnectionOptions options, std::uint64_t jitter_seed);
  ~AgentConnection() override;

  /// Begins to connect; `core` is told of sessions and messages.
  void start(AgentCore& core);

  /// What the next connections are made with; the one that is open stays.
  void use(TlsIdentity identity) { options_.tls = std::move(identity); }

  void send(AgentMessage message) override;
  void upload(std::uint64_t command, std::string text, Callback<void> done) override;
  void reconnect() override;

 private:
  void connect();
  void connected(Result<std::shared_ptr<MessageSocket>> socket);
  void lost(const std::string& reason);

  AsioLoop& loop_;
  AgentConnectionOptions options_;
  Rng jitter_;
  AgentCore* core_ = nullptr;
  std::shared_ptr<MessageSocket> socket_;
  Timer timer_;
  int failures_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
