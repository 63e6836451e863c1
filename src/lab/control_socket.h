#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "edge/asio_loop.h"
#include "edge/process.h"
#include "lab/lab_protocol.h"

namespace virga {

/// The lab's end of its control socket: one request and one reply a connection, at most 32 connections, mode 0600.
class ControlSocket {
 public:
  using Reply = std::function<void(LabReply)>;  ///< exactly once, on the Loop, at any time
  using Handler = std::function<void(LabRequest request, Reply reply)>;

  /// Errors: denied, invalid (path too long).
  static Result<std::unique_ptr<ControlSocket>> listen(AsioLoop& loop, const std::string& path,
                                                       Handler handler);
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;
  ~ControlSocket();

 private:
  ControlSocket(AsioLoop& loop, Descriptor listener, Handler handler);
  void accept_one();
  void read_request(int client);
  void answer(int client, const LabReply& reply);
  void drop(int client);

  AsioLoop& loop_;
  Descriptor listener_;
  Handler handler_;
  std::map<int, Descriptor> clients_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
