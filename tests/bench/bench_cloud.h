#pragma once

#include <functional>
#include <memory>
#include <string>

#include "edge/asio_loop.h"
#include "edge/http.h"
#include "edge/process.h"
#include "model/host.h"
#include "model/vm.h"

/// What the benchmarks of the server have in common: a cloud of a given size in a store, and the server on it.
namespace virga::bench {

/// The size of a cloud: every cluster has the same number of hosts, one network of tenant `acme` named as the cluster,
/// and, with `populated`, one running VM on each host.
struct CloudSize {
  int clusters = 1;
  int hosts_per_cluster = 1;
  bool populated = false;
  Duration lease = seconds(10);
  Duration suspect_after = seconds(2);

  int hosts() const { return clusters * hosts_per_cluster; }
};

inline constexpr const char* kTenant = "acme";
inline constexpr const char* kImage = "tiny";

std::string cluster_name(int cluster);

/// Hosts are numbered through all clusters.
Host make_host(const CloudSize& size, int number);
Vm make_vm(const CloudSize& size, int number);

/// Ends every wait of a benchmark; set by SIGINT and SIGTERM once catch_signals() was called.
bool interrupted();
void catch_signals();

/// Writes the cloud into the store that a server opens afterwards. Blocks.
Result<void> fill_store(const std::string& folder, const CloudSize& size);

/// One `virgad server` on the data in `folder`. Dropping it ends the process.
class ServerProcess {
 public:
  /// Returns when the server is ready. Errors: those of spawn; timeout after 60 s.
  static Result<std::unique_ptr<ServerProcess>> start(const std::string& program,
                                                      const std::string& folder);
  ~ServerProcess();

  /// Kills it and starts it again on the same data and ports. Returns when the new one is ready; `killed` runs between.
  Result<void> restart(const std::function<void()>& killed);

  const std::string& api() const { return api_; }        ///< "http://127.0.0.1:..."
  const std::string& agents() const { return agents_; }  ///< "wss://127.0.0.1:..."
  bool running() const { return process_->running(); }

  double cpu_seconds() const;    ///< user and system, of all its threads
  double resident_mb() const;    ///< 10^6 bytes
  double peak_mb() const;

 private:
  Result<void> spawn();

  AsioLoop loop_;
  ProcessOptions options_;
  std::unique_ptr<Process> process_;
  std::string api_;
  std::string agents_;
};

/// A blocking client of the API with a loop of its own. One thread.
class ApiClient {
 public:
  explicit ApiClient(std::string url) : url_(std::move(url)) {}

  Result<HttpResponse> call(const std::string& method, const std::string& path,
                            const std::string& body = {});

  /// The value of a metric, 0 when there is none, -1 without an answer. With labels: NAME{health="alive"}.
  double metric(const std::string& name);

  /// Number of events in the journal; -1 without an answer.
  double events();

 private:
  std::string url_;
  AsioLoop loop_;
};

void print(const std::string& name, double value, const char* unit);

/// CPU time of this process in seconds.
double own_cpu_seconds();

Instant now();  ///< the clock of AsioLoop
double seconds_since(Instant begin);

void rest(Duration span);

/// Asks every `pause` until `done`; false after `limit`, or when the program shall end.
bool wait_until(const std::function<bool()>& done, Duration limit, Duration pause);

}  // namespace virga::bench
