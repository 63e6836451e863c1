#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "base/result.h"
#include "driver/hypervisor.h"
#include "edge/asio_loop.h"
#include "edge/process.h"

namespace virga {

/// Destination's end of a live migration's connection. Hands over one connection, whose peer has sent the secret as
/// its first line within 5 s; strangers are closed, at most 8 of them wait at a time. Loop thread only.
class MigrationListener {
 public:
  using Handler = std::function<void(Descriptor connection)>;

  /// Errors: invalid (address), exhausted.
  static Result<std::unique_ptr<MigrationListener>> listen(AsioLoop& loop,
                                                           const std::string& address,
                                                           std::string secret, Handler handler);
  ~MigrationListener();
  MigrationListener(const MigrationListener&) = delete;
  MigrationListener& operator=(const MigrationListener&) = delete;

  std::uint16_t port() const { return port_; }

 private:
  struct Candidate {
    Descriptor connection;
    std::string line;
    TimerId deadline = 0;
  };
  using Place = std::list<Candidate>::iterator;

  MigrationListener(AsioLoop& loop, Descriptor socket, std::string secret, Handler handler);
  void accept();
  void read(Place candidate);
  void drop(Place candidate);
  void close();

  AsioLoop& loop_;
  Descriptor socket_;
  std::uint16_t port_ = 0;
  std::string secret_;
  Handler handler_;
  std::list<Candidate> candidates_;
};

/// Tells the source that QEMU reads from now on.
Result<void> confirm_migration(int connection);

/// Source's end: connects, sends the secret and waits for the confirmation. Blocking, for a worker thread.
/// Errors: unavailable, timeout, invalid (address).
Result<Descriptor> connect_migration(const MigrationEndpoint& to, Duration deadline);

}  // namespace virga
