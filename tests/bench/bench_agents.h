#pragma once

#include <memory>
#include <string>

#include "bench/bench_cloud.h"

namespace virga::bench {

/// The agents of all hosts of a cloud in this process: each is the shipped AgentCore with the simulated hypervisor and
/// one mutual TLS connection of its own. They live on a thread of theirs; all calls from any thread.
///
/// One thing is not what real agents do: the hosts do not probe one another. Each report carries, as a real one does,
/// what the host would have seen of three peers; they are always said to be alive.
class Agents {
 public:
  struct Options {
    CloudSize size;
    std::string server;     ///< "wss://127.0.0.1:7443"
    std::string authority;  ///< folder of the server's authority: certificates come from it
    int opening_max = 128;  ///< links that are being opened at once
    bool shuffled = false;  ///< connect in random order instead of cluster by cluster
  };

  static Result<std::unique_ptr<Agents>> start(const Options& options);
  ~Agents();

  int leases() const;   ///< agents that have got a lease at least once
  int running() const;  ///< copies of VMs whose processors run

  /// From now on counts anew which agents are granted a lease, and whose lease ends before that.
  void watch_leases();
  int renewed() const;
  int lapsed() const;

 private:
  Agents();
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace virga::bench
