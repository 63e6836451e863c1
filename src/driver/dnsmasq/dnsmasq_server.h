#pragma once

#include <memory>
#include <string>

#include "driver/dnsmasq/configuration.h"
#include "driver/gateway_server.h"
#include "edge/call_queue.h"
#include "edge/process.h"
#include "edge/worker.h"

namespace virga {

/// One dnsmasq in a folder of its own, which outlives this object. What is wanted stands in the folder's files before
/// it is told of it, so that whoever starts it from there gets that. The folder: dnsmasq.conf, members, names,
/// process.json, pid (made by dnsmasq when it serves), dnsmasq.log.
/// Loop thread only; files are written by `worker`, which may serve several and must outlive this object.
class DnsmasqServer final : public GatewayServer {
 public:
  DnsmasqServer(AsioLoop& loop, Worker& worker, DnsmasqOptions options);

  void open(Callback<void> done) override;
  void apply(const GatewaySpec& wanted, Callback<void> done) override;
  void remove(Callback<void> done) override;

  /// Of the process; 0 = it does not run.
  pid_t pid() const { return running() ? process_->pid() : 0; }

 private:
  struct Written {
    bool configuration = false;  ///< what dnsmasq reads at its start only has changed
    bool members = false;
  };

  static Result<Written> write(const std::string& directory, const DnsmasqFiles& files);
  void serve(Written written, const Callback<void>& done);
  void catch_up(const Callback<void>& done);
  void start(const Callback<void>& done);
  void await(Instant until, const Callback<void>& done);
  void end(const Task& then);
  Result<void> spawn();
  Result<void> adopt();
  void follow(std::unique_ptr<Process> process);
  void exited();
  void restart_later();
  bool running() const { return process_ != nullptr && process_->running(); }
  std::string path(const char* name) const { return options_.directory + "/" + name; }

  AsioLoop& loop_;
  Worker& worker_;
  const DnsmasqOptions options_;
  bool wanted_ = false;  ///< it shall run
  std::unique_ptr<Process> process_;
  Instant started_;
  CallQueue calls_;
  Task on_exit_;
  Timer exit_deadline_;
  Timer look_;
  Timer restart_;
  Duration restart_pause_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
