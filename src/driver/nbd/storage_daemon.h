#pragma once

#include <functional>
#include <memory>
#include <string>

#include "driver/nbd/nbd_files.h"
#include "driver/qmp/qmp_client.h"
#include "driver/volumes/volume_access.h"
#include "edge/process.h"

namespace virga {

struct NbdOptions {
  std::string program = "/usr/bin/qemu-storage-daemon";
  std::string directory;              ///< the device: one folder a volume
  std::string address = "127.0.0.1";  ///< IPv4 that consumers reach
  int consumers_max = 16;             ///< connections of one volume
  Duration obey_within = seconds(1);  ///< a server that does not cut a consumer off in this time is killed
  Mib copied_a_second{100};           ///< of a copy that begins, at most; holes count
};

/// One qemu-storage-daemon that serves one volume. It outlives this object and is adopted by the next.
/// Loop thread only.
class StorageDaemon {
 public:
  /// `exited`: once, when the process is gone.
  StorageDaemon(AsioLoop& loop, const NbdOptions& options, NbdFiles files, Task exited);
  ~StorageDaemon();
  StorageDaemon(const StorageDaemon&) = delete;
  StorageDaemon& operator=(const StorageDaemon&) = delete;

  /// Starts it on a socket that listens already; it lets nobody in yet. Errors: of Process::spawn.
  Result<void> launch(const Descriptor& listener);

  /// Takes over the one that an earlier agent has started. Errors: not_found (there is none, for certain); after any
  /// other nobody knows.
  Result<void> adopt();

  void connect(Callback<void> done);

  /// Lets consumers in that know the name and a key.
  void add_export(const std::string& name, Callback<void> done);

  /// Cuts off whoever uses it. Completes when no request of theirs is under way any more; one that is not there counts
  /// as removed. Errors: timeout and others; then kill() is what remains.
  void remove_export(const std::string& name, Callback<void> done);

  /// Names of the exports that it has now.
  void list_exports(Callback<std::vector<std::string>> done);

  /// As VolumeAccess. What consumers write meanwhile waits until what was there is in the copy.
  void copy(const VolumeCopy& copy, Callback<CopyState> done);
  void end_copy(const VolumeCopy& copy, Callback<void> done);

  bool running() const { return process_ != nullptr && process_->running(); }
  bool connected() const { return open_; }
  void kill();

 private:
  struct Job {
    std::string id;
    bool concluded = false;
    std::string error;
  };

  void follow(std::unique_ptr<Process> process);
  void await_removal(const std::string& name, Instant until, Callback<void> done);
  void find_copy(Callback<Job> done);
  void start_copy(const VolumeCopy& copy, Callback<CopyState> done);
  void forget_copy(const std::string& job, Callback<void> done);
  void cancel_copy(const std::string& job, Instant until, Callback<void> done);
  void execute(const std::string& command, boost::json::object arguments,
               Callback<boost::json::value> done);

  AsioLoop& loop_;
  const NbdOptions& options_;
  const NbdFiles files_;
  Task exited_;
  std::unique_ptr<Process> process_;
  std::unique_ptr<QmpClient> qmp_;
  bool open_ = false;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
