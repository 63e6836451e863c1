#pragma once

#include <boost/json.hpp>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/time.h"

namespace virga {

/// A session with Ceph's monitors, by Ceph's own library. That is loaded when it is needed first, so that the program
/// links nothing of Ceph. Blocking; not thread-safe. Cost: 50 ms to open, 1 to 50 ms a command, 1 s for one that
/// changes the map of OSDs. Source: Ceph 16.2, src/include/rados/librados.h.
class MonitorLink {
 public:
  /// `client`: "client.admin". `within`: for opening, and for each command. Errors: unavailable (in Ceph's words, or
  /// its library is not there).
  static Result<std::unique_ptr<MonitorLink>> open(const std::string& configuration,
                                                   const std::string& client, Duration within);

  virtual ~MonitorLink() = default;

  /// The output of one command. `monitor`: the name of the one that has to answer; empty = any. Errors: unavailable,
  /// with what Ceph said.
  virtual Result<std::string> say(const boost::json::object& command, const std::string& input,
                                  const std::string& monitor) = 0;
};

}  // namespace virga
