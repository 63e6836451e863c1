#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "driver/qmp/qmp_socket.h"

namespace virga {

struct QmpEvent {
  std::string name;  ///< "MIGRATION"
  boost::json::object data;
};

/// Commands, answers and events of one QMP connection. Loop thread only.
///
/// Every command ends by its deadline: with the answer's `return`, or as an Error (timeout; unavailable when the
/// connection is lost; unsupported for a command that QEMU does not know; else internal with QEMU's words). Answers
/// that come later or that nobody asked for are dropped. At most 256 commands may be under way (exhausted).
class QmpClient {
 public:
  using Answer = Callback<boost::json::value>;

  QmpClient(AsioLoop& loop, std::unique_ptr<QmpSocket> socket);
  ~QmpClient();
  QmpClient(const QmpClient&) = delete;
  QmpClient& operator=(const QmpClient&) = delete;

  /// Waits for QEMU's greeting and enables out-of-band commands.
  void open(Duration deadline, Callback<void> done);

  void execute(const std::string& command, boost::json::object arguments, Duration deadline,
               Answer done);

  /// The same with a descriptor handed over beside the command (getfd, add-fd); it stays the caller's.
  void execute_with(const std::string& command, boost::json::object arguments, int descriptor,
                    Answer done);

  /// Handled by QEMU outside of its main loop: answered also when that hangs. For yank and migrate-pause.
  void execute_oob(const std::string& command, boost::json::object arguments, Duration deadline,
                   Answer done);

  void on_event(std::function<void(const QmpEvent&)> handler) {
    event_handler_ = std::move(handler);
  }

  /// Once; all commands under way have ended with an error before it.
  void on_closed(std::function<void(const Error&)> handler) {
    closed_handler_ = std::move(handler);
  }

  bool closed() const { return closed_; }

  /// Appears in the log beside each command from now on.
  void set_correlation(std::string correlation) { correlation_ = std::move(correlation); }

 private:
  struct Pending {
    std::string command;
    Answer done;
    TimerId deadline = 0;
  };
  struct Request {
    const char* verb = "execute";
    std::string command;
    boost::json::object arguments;
    Duration deadline{0};
    int descriptor = -1;
  };
  void request(Request wanted, Answer done);
  void receive(const boost::json::object& message);
  void receive_event(const boost::json::object& message);
  void finish(std::uint64_t id, Result<boost::json::value> answer);
  void greeted();
  void lost(const Error& why);

  AsioLoop& loop_;
  std::unique_ptr<QmpSocket> socket_;
  std::map<std::uint64_t, Pending> pending_;
  std::uint64_t next_id_ = 1;
  bool greeted_ = false;
  bool closed_ = false;
  Callback<void> open_done_;
  Timer open_deadline_;
  std::string correlation_;
  std::function<void(const QmpEvent&)> event_handler_;
  std::function<void(const Error&)> closed_handler_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace virga
