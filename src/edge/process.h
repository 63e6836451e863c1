#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "edge/asio_loop.h"

namespace virga {

/// A file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor() { reset(); }
  int get() const { return number_; }
  int release() { return std::exchange(number_, -1); }
  bool valid() const { return number_ >= 0; }
  void reset();

 private:
  int number_ = -1;
};

/// Who a child is. With user 0 it keeps all rights of its parent, else it has none beyond these.
struct Credentials {
  uid_t user = 0;
  gid_t group = 0;
  std::vector<gid_t> groups;  ///< beside `group`
};

struct ProcessOptions {
  std::vector<std::string> arguments;              ///< [0] = absolute path of the program
  std::map<std::string, std::string> environment;  ///< all of it; nothing is inherited
  std::string working_directory = "/";  ///< not with `sandbox`
  std::map<int, int> descriptors;  ///< number in the child -> number here; all others closed
  std::string output_path;         ///< stdout and stderr are appended here; empty = /dev/null
  std::vector<std::string> cgroup_procs;  ///< files that the child's pid is written to before exec
  int network_namespace = -1;             ///< descriptor of a netns to enter; -1 = stay
  Credentials as;
  /// Not empty: the child sees these files and folders alone, read-only (name below "/", one part -> path here), and
  /// has neither network nor sockets, no other process in sight and no way to get rights. See sandbox.h. Needs root,
  /// who must name another user in `as`, or user namespaces for everybody: denied or exhausted else.
  std::map<std::string, std::string> sandbox;
  bool lowered = false;          ///< gives up what its parent has by rise_above_guests()
  bool own_session = true;       ///< setsid: signals to our group do not reach it
  bool die_with_parent = false;  ///< PR_SET_PDEATHSIG SIGKILL
};

struct ProcessExit {
  int code = -1;  ///< of exit(); -1 = ended by a signal
  int signal = 0;
};

/// A child, or a process adopted by pid, followed by its pidfd.
class Process {
 public:
  /// Starts a child; completes when exec has happened. Errors: not_found (program), denied, invalid, exhausted;
  /// they name the step that failed.
  static Result<std::unique_ptr<Process>> spawn(AsioLoop& loop, const ProcessOptions& options);

  /// Follows a process that is not our child. `start_ticks` (field 22 of /proc/PID/stat) guards against a reused
  /// pid. Errors: not_found (it has ended, for certain); any other: nobody knows (exhausted: no descriptor is left).
  static Result<std::unique_ptr<Process>> adopt(AsioLoop& loop, pid_t pid,
                                                std::uint64_t start_ticks);

  virtual ~Process() = default;  ///< stops following; does not end the process
  virtual pid_t pid() const = 0;
  virtual int pidfd() const = 0;
  virtual std::uint64_t start_ticks() const = 0;
  virtual bool running() const = 0;
  virtual void signal(int number) = 0;  ///< through the pidfd: never hits another process
  virtual void on_exit(std::function<void(ProcessExit)> handler) = 0;  ///< on the Loop, once
};

struct ProcessOutput {
  ProcessExit exit;
  std::string out;  ///< at most 1 MiB, the rest is dropped
  std::string err;
};

/// Runs a helper program to its end or kills it at the deadline (timeout), with what it has started in its session.
/// Blocking: not on a control loop.
Result<ProcessOutput> run_process(const ProcessOptions& options, Duration deadline);

/// Puts this process above guests: served first and ended last when the host is short of something. Children keep that
/// unless they are started `lowered`. Errors: denied (names what could not be done; the rest is).
Result<void> rise_above_guests();

/// Lets this process have so many files open, or as many as its hard limit allows, which root raises; children keep
/// that. Returns how many it may have now; never fewer than before.
std::int64_t allow_open_files(std::int64_t wanted);

/// "d7f3..." of /proc/sys/kernel/random/boot_id.
std::string read_boot_id();

}  // namespace virga
