#pragma once

#include <memory>
#include <string>
#include <vector>

#include "edge/process.h"
#include "lab/control_socket.h"
#include "lab/enrolment.h"
#include "lab/lab_host.h"
#include "lab/lab_state.h"

namespace virga {

/// A small cloud on one machine: the shipped programs as separate processes, hosts as network namespaces, with a
/// control group each where the lab may make them, and faults on demand. Loop thread only; starting and ending block
/// for some tens of milliseconds a call of ip(8).
class Lab {
 public:
  /// `options` complete; the caller holds the instance's lock and has cleaned up.
  Lab(AsioLoop& loop, LabOptions options);
  Lab(const Lab&) = delete;
  Lab& operator=(const Lab&) = delete;

  /// Completes when the server is ready, all is registered and the hosts have been powered on.
  void start(Callback<void> done);

  /// The server ends first, so that it takes the loss of the hosts for no failure. Completes when nothing is left.
  void stop(Callback<void> done);

  LabStatus status() const;

 private:
  Result<void> build();
  Result<void> choose_prefix();
  Result<void> start_server();
  void enrol(Callback<void> done);
  Result<void> power_on_hosts();
  void save_state();

  void handle(LabRequest request, ControlSocket::Reply reply);
  void fail(const LabRequest& request, const ControlSocket::Reply& reply);
  Result<void> fail_server(const LabRequest& request);
  Result<void> heal(const std::string& host);
  void heal_server();
  LabHost* find(const std::string& name);
  void wait_for_server(int looks_left, Callback<void> done);

  AsioLoop& loop_;
  LabOptions options_;
  LabPaths paths_;
  std::string phase_ = "starting";
  std::string bmc_password_;
  std::string prefix_;    ///< "10.77": of all addresses
  Descriptor claim_;      ///< no other lab has it as long as this is open
  std::unique_ptr<LabNetwork> network_;
  Supervised server_;
  bool server_frozen_ = false;
  std::vector<std::unique_ptr<LabHost>> hosts_;
  std::unique_ptr<Enrolment> enrolment_;
  std::unique_ptr<ControlSocket> control_;
  Timer saving_;
  Timer waiting_;
};

}  // namespace virga
