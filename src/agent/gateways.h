#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "driver/fabric.h"
#include "driver/gateway_server.h"

namespace virga {

/// What a host has for gateways: the driver of what serves in them, and a memory of them for the next agent. Calls of
/// microseconds, loop thread only. Implementations: GatewayFolders.
class GatewayHome {
 public:
  virtual ~GatewayHome() = default;

  /// Not open yet. `network_namespace`: path of the gateway's.
  virtual std::unique_ptr<GatewayServer> make(std::uint32_t vni,
                                              const std::string& network_namespace) = 0;

  virtual std::map<std::uint32_t, GatewayNetwork> remembered() = 0;

  /// Errors: exhausted, denied.
  virtual Result<void> remember(const GatewayNetwork& network) = 0;

  /// With all that was kept for it.
  virtual Result<void> forget(std::uint32_t vni) = 0;
};

/// The gateways of networks that this host carries: which ones, the server says. Each is made what was told last; what
/// fails is tried again. They outlive the agent and go on without a lease: what a gateway holds is true on every host.
/// Loop thread only.
class Gateways {
 public:
  /// `home` may be nullptr: this host has none. `failed` hears of each that begins to fail
  /// once this host knows its networks.
  Gateways(Loop& loop, Fabric& fabric, GatewayHome* home, std::function<void(const Error&)> failed);

  /// Goes on with those of an earlier agent. Once, first.
  void start();

  /// A message of the server, in the order in which they came.
  void take(FabricGateways told);

  /// The rest of a message that is on its way does not come any more.
  void session_begins() { waiting_ = FabricGateways(); }

 private:
  enum class Aim {
    kept,
    served,
    gone
  };  ///< as an earlier agent left it; as it was told; not there
  struct Gateway {
    Aim aim = Aim::kept;
    GatewayNetwork network;
    std::map<std::string, GatewayMember> members;  ///< by port
    std::unique_ptr<GatewayServer> server;
    bool opened = false;   ///< open() was called
    bool dirty = true;     ///< is not what it shall be
    bool busy = false;     ///< work is under way
    bool failing = false;  ///< the last work failed
    bool told = false;     ///< that it fails
  };

  void take_whole(const FabricGateways& told);
  void work(std::uint32_t vni);
  void raise(std::uint32_t vni);
  void serve(std::uint32_t vni);
  void lower(std::uint32_t vni);
  void erase(std::uint32_t vni);
  void ended(std::uint32_t vni, const Result<void>& result);
  Callback<void> while_here(Callback<void> next);

  Fabric& fabric_;
  GatewayHome* home_;
  std::function<void(const Error&)> failed_;
  std::map<std::uint32_t, Gateway> gateways_;
  FabricGateways waiting_;  ///< of a message whose rest is on its way
  Timer retry_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
