#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>

#include "base/loop.h"
#include "edge/http.h"

namespace virga::api {

/// Texts of resources by key, so that a resource that did not change is not written out again. One thread only.
class TextCache {
 public:
  /// The text of `key` at `revision`; `make` writes it when it is not here.
  const std::string& text(const std::string& key, std::uint64_t revision,
                          const std::function<std::string()>& make);

  /// Forgets everything when far more is kept than the `wanted` that exist.
  void trim(std::size_t wanted);

 private:
  struct Entry {
    std::uint64_t revision = 0;
    std::string text;
  };
  std::unordered_map<std::string, Entry> entries_;  ///< looked up, never walked over
};

/// Writes long lists on a thread of its own: megabytes of JSON must not hold up the loop.
class ListWriter {
 public:
  using Make = std::function<HttpResponse(TextCache&)>;
  using Done = std::function<void(HttpResponse)>;

  explicit ListWriter(Loop& loop) : loop_(loop) {}
  ~ListWriter() { stop(); }

  /// Runs `make` on the thread (it may read nothing but what it owns), then `done` on the loop. False when too many
  /// lists wait already.
  bool write(Make make, Done done);

  /// Ends the thread; lists that wait are dropped. Loop thread only.
  void stop();

 private:
  struct Job {
    Make make;
    Done done;
  };
  void run();

  Loop& loop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  bool stopping_ = false;
  TextCache cache_;
  std::thread thread_;  ///< begins with the first job
};

}  // namespace virga::api
