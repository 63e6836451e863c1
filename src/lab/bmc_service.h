#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "driver/bmc.h"
#include "edge/asio_loop.h"
#include "edge/http.h"
#include "lab/lab_protocol.h"

namespace virga {

/// What a BMC does to its machine.
class MachineSwitch {
 public:
  virtual ~MachineSwitch() = default;
  virtual MachinePower power() = 0;      ///< as it really is, not as it was commanded
  virtual void force_off() = 0;          ///< begins; power() tells when it is done
  virtual Result<void> switch_on() = 0;  ///< begins
  virtual BmcMode mode() = 0;
};

struct BmcServiceOptions {
  std::string system;  ///< the name in /redfish/v1/Systems/NAME
  std::string user;
  std::string password;
  Duration slow_answer_ms = seconds(3);
};

/// The part of Redfish that power needs: service root, Systems, one ComputerSystem and its Reset action, with basic
/// authentication. In mode `lies` it remembers what it was told and says so; nothing else of it is ever made up.
class BmcService {
 public:
  BmcService(AsioLoop& loop, BmcServiceOptions options, MachineSwitch& machine);
  BmcService(const BmcService&) = delete;
  BmcService& operator=(const BmcService&) = delete;

  /// The handler of its HttpServer.
  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply);

 private:
  HttpResponse answer(const HttpRequest& request, BmcMode mode);
  HttpResponse reset(const HttpRequest& request, BmcMode mode);
  std::string power_state(BmcMode mode);
  void keep_silent(std::shared_ptr<HttpReply> reply);

  AsioLoop& loop_;
  BmcServiceOptions options_;
  MachineSwitch& machine_;
  std::optional<MachinePower> told_;  ///< in mode `lies`
  std::list<std::shared_ptr<HttpReply>> silenced_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
