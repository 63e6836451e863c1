#include "sim/server_run.h"

#include <fmt/format.h>

#include "server/core/server_core.h"

namespace virga::sim {
class ServerRun::Impl : public HostLinks {
 public:
  explicit Impl(Parts parts);
  ~Impl() override { process_.end(); }

  void send(virga::SessionId session, const ServerMessage& message) override {
    parts_.network.send_to_agent(session, message);
  }
  void close(virga::SessionId session) override { parts_.network.close_by_server(session); }

  SimProcess& process() { return process_; }
  MemoryStore& store() { return store_; }

 private:
  std::string make_secret();
  void listen();

  Parts parts_;
  SimProcess process_;
  MemoryStore store_;
  SimJournal journal_;
  SimBmc bmc_;
  std::unique_ptr<metering::MemoryUsageStore> usage_;
  ServerCore core_;
};

ServerRun::Impl::Impl(Parts parts)
    : parts_(std::move(parts)),
      process_(parts_.world.loop()),
      store_(process_, parts_.rng.fork(), parts_.store, parts_.disk),
      journal_(process_, parts_.journal, parts_.event),
      bmc_(parts_.world, process_, parts_.switch_power),
      usage_(parts_.usage == nullptr
                 ? nullptr
                 : std::make_unique<metering::MemoryUsageStore>(process_, parts_.usage)),
      core_(ServerDependencies{process_, store_, journal_, bmc_, *this,
                               [this] { return make_secret(); },
                               [](const std::string& secret, const std::string& name) {
                                 return secret + "/" + name;  // nobody forges in the simulation
                               },
                               usage_.get()},
            ServerOptions{}) {
  core_.start([this](const Result<void>& ready) {
    VIRGA_CHECK(ready.ok());
    listen();
  });
}

std::string ServerRun::Impl::make_secret() {
  std::string secret;
  for (int word = 0; word < 4; ++word) secret += fmt::format("{:016x}", parts_.rng.next());
  return secret;
}

void ServerRun::Impl::listen() {
  MessageNetwork::ServerSide side;
  side.opened = [this](SessionId session, const HostTruth& from) {
    core_.sessions().opened(session, "agent:" + from.id.value);
  };
  side.message = [this](SessionId session, AgentMessage&& message) {
    core_.sessions().received(session, std::move(message));
  };
  side.closed = [this](SessionId session) { core_.sessions().closed(session); };
  parts_.network.server_up(process_.group(), std::move(side));
}

ServerRun::ServerRun(Parts parts) : impl_(std::make_unique<Impl>(std::move(parts))) {}
ServerRun::~ServerRun() = default;
SimProcess& ServerRun::process() { return impl_->process(); }
MemoryStore& ServerRun::store() { return impl_->store(); }

}  // namespace virga::sim
