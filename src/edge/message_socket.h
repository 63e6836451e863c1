#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "edge/http.h"
#include "edge/http_url.h"
#include "edge/io_thread.h"

namespace virga {

class ByteStream;
struct UpgradeRequest;

struct MessageSocketOptions {
  std::size_t message_bytes_max = 1 << 20;
  std::size_t queue_bytes_max = 16 << 20;
  Duration idle_deadline =
      seconds(60);  ///< pinged at half of it, lost when nothing came for the whole
  Duration handshake_deadline = seconds(10);
};

/// What both ends of a socket within this process share: the handle on the Loop and the connection on its thread.
struct MessageSocketState {
  explicit MessageSocketState(AsioLoop& made_loop) : loop(made_loop) {}

  AsioLoop& loop;
  MessageSocketOptions options;
  std::shared_ptr<std::atomic<bool>> owner_alive;  // false = handlers run no more
  std::string peer_name;
  std::string peer_address;
  std::atomic<std::size_t> queued_bytes = 0;       // waiting to be written
  std::atomic<std::size_t> undelivered_bytes = 0;  // read, but not yet seen by the handler
  std::atomic<bool> reading_paused = false;
  std::atomic<bool> closed = false;
  // Loop thread only:
  bool closed_delivered = false;
  std::function<void(std::string)> on_message;
  std::function<void(const std::string&)> on_closed;
};

/// A WebSocket on its IoThread. All but the factory runs there.
class MessageSocketCore {
 public:
  static std::shared_ptr<MessageSocketCore> make(std::shared_ptr<MessageSocketState> state,
                                                 std::shared_ptr<IoThread> thread);
  virtual ~MessageSocketCore() = default;

  /// Answers a client's upgrade; `slot` lives as long as the connection.
  virtual void accept(ByteStream stream, const UpgradeRequest& request,
                      std::shared_ptr<void> slot) = 0;

  /// Asks a server; `done` runs on the IoThread, once.
  virtual void handshake(ByteStream stream, const HttpUrl& url,
                         const std::map<std::string, std::string>& headers,
                         std::function<void(Result<void>)> done) = 0;

  /// Ends the connection at once.
  virtual void fail(const std::string& reason) = 0;

  virtual void send(std::string message) = 0;
  virtual void close() = 0;
  virtual void resume_reading() = 0;
};

/// What the user holds. Dropping it closes the connection, and no handler runs afterwards.
std::shared_ptr<MessageSocket> make_message_socket(std::shared_ptr<MessageSocketState> state,
                                                   const std::shared_ptr<IoThread>& thread,
                                                   const std::shared_ptr<MessageSocketCore>& core);

/// Tells the handle, on the Loop, that the connection is gone.
void deliver_closed(const std::shared_ptr<MessageSocketState>& state, const std::string& reason);

}  // namespace virga
