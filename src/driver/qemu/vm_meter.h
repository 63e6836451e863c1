#pragma once

#include <string>
#include <vector>

#include "base/reflect.h"
#include "model/usage.h"

namespace virga {

/// How long a copy's guest has run here, kept in its folder so that the next agent goes on counting. Written when the
/// guest begins or ceases to run, not in between. Loop thread only.
class VmMeter {
 public:
  explicit VmMeter(std::string path) : path_(std::move(path)) {}

  /// A new copy. `links`: names of the network devices that carry its frames, in this process's namespace.
  void begin(const Epoch& epoch, std::vector<std::string> links, Instant now);

  /// One of an earlier agent; a copy of which nothing was kept counts from here.
  void adopt(const Epoch& epoch, Instant now);

  void set_running(bool runs, Instant now);
  bool running() const { return record_.runs_since_ms >= 0; }
  Duration age(Instant now) const;
  Duration run_time(Instant now) const;

  /// Adds what the guest has sent and received; leaves it unmeasured where no link tells.
  void read_links(VmUsage& usage) const;

  struct Record {
    Epoch epoch;
    std::int64_t born_ms = 0;         ///< on the host's monotonic clock
    std::int64_t ran_ms = 0;          ///< before the last change
    std::int64_t runs_since_ms = -1;  ///< negative = does not run
    std::vector<std::string> links;
  };

 private:
  void keep() const;

  std::string path_;
  Record record_;
};
BOOST_DESCRIBE_STRUCT(VmMeter::Record, (), (epoch, born_ms, ran_ms, runs_since_ms, links))

/// Adds the counters of one link from the text of /proc/net/dev: what a tap has received its guest has sent. False when
/// the link is not there. Source: Linux, Documentation/filesystems/proc.rst.
bool add_link(const std::string& text, const std::string& link, VmUsage& usage);

}  // namespace virga
