#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>

namespace virga {

/// A client of tests that asks without pause on one connection, on a thread of its own, as long as this lives.
class KeepAliveClient {
 public:
  struct Count {
    std::int64_t answered = 0;
    std::int64_t failed = 0;
    std::int64_t reconnected =
        0;  ///< a connection that had served before was gone instead of an answer
    std::map<std::string, std::int64_t> by_body;
  };

  KeepAliveClient(std::string address, int port);
  ~KeepAliveClient() { end(); }
  KeepAliveClient(const KeepAliveClient&) = delete;
  KeepAliveClient& operator=(const KeepAliveClient&) = delete;

  Count count() const;

  /// After the answer that is under way.
  void end();

 private:
  enum class Outcome { answered, closed, broken };

  void run();
  void ask();
  bool connect();
  Outcome exchange(std::string& body);
  void note(Outcome outcome, bool used_before, const std::string& body);

  const std::string address_;
  const int port_;
  int socket_ = -1;
  bool used_ = false;  ///< it has brought an answer
  std::atomic<bool> ending_{false};
  mutable std::mutex mutex_;
  Count count_;
  std::thread thread_;
};

}  // namespace virga
