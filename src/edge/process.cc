#include "edge/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <ctime>
#include <optional>

#include "edge/bare_call.h"
#include "edge/file.h"
#include "edge/sandbox.h"

namespace virga {
namespace {

constexpr std::size_t kOutputMax = 1 << 20;

/// Where the child was when it failed; sent through the pipe with errno.
enum class Step : int {
  session,
  cgroup,
  network,
  sandbox,
  folder,
  descriptors,
  privileges,
  program,
};

const char* text_of(Step step) {
  switch (step) {
    case Step::session:
      return "make a session";
    case Step::cgroup:
      return "enter the cgroup";
    case Step::network:
      return "enter the network namespace";
    case Step::sandbox:
      return "make its sandbox";
    case Step::folder:
      return "enter the working directory";
    case Step::descriptors:
      return "hand over the descriptors";
    case Step::privileges:
      return "drop privileges";
    case Step::program:
      return "execute the program";
  }
  return "start";
}

struct Failure {
  Step step = Step::session;
  int number = 0;
};

/// All that the child needs, made before it exists: after clone it may not allocate.
struct Plan {
  const ProcessOptions* options = nullptr;
  std::vector<char*> arguments;
  std::vector<char*> environment;
  std::vector<Descriptor> cgroups;
  std::vector<std::pair<int, int>> descriptors;  ///< (number in the child, number here), ordered
  std::vector<int> staged;                       ///< scratch: the copies above all targets
  std::optional<Sandbox> sandbox;
  /// Pidfd, for die_with_parent: in a process namespace of its own the child knows no number of it.
  int parent = -1;
  int error_pipe = -1;
};

[[noreturn]] void child_fails(const Plan& plan, Step step) {
  const Failure failure{step, errno};
  bare_call(SYS_write, plan.error_pipe, &failure, sizeof failure);
  bare_call(SYS_exit_group, 127);
  __builtin_unreachable();
}

void child_resets_signals() {
  struct KernelAction {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    unsigned long mask;
  };
  const KernelAction standard{SIG_DFL, 0, nullptr, 0};
  for (int number = 1; number <= 64; ++number) {
    bare_call(SYS_rt_sigaction, number, &standard, nullptr, sizeof standard.mask);
  }
  const unsigned long none = 0;
  bare_call(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof none);
}

void child_places_descriptors(Plan& plan) {
  const int above = plan.descriptors.empty() ? 3 : plan.descriptors.back().first + 1;
  for (int* kept : {&plan.error_pipe, &plan.parent}) {
    *kept = static_cast<int>(bare_call(SYS_fcntl, *kept, F_DUPFD_CLOEXEC, above));
  }
  for (std::size_t index = 0; index < plan.descriptors.size(); ++index) {
    const long copy = bare_call(SYS_fcntl, plan.descriptors[index].second, F_DUPFD_CLOEXEC, above);
    if (copy < 0) child_fails(plan, Step::descriptors);
    plan.staged[index] = static_cast<int>(copy);
  }
  unsigned next = 0;
  for (std::size_t index = 0; index < plan.descriptors.size(); ++index) {
    const auto target = static_cast<unsigned>(plan.descriptors[index].first);
    if (bare_call(SYS_dup3, plan.staged[index], target, 0) < 0)
      child_fails(plan, Step::descriptors);
    if (target > next) bare_call(SYS_close_range, next, target - 1, CLOSE_RANGE_CLOEXEC);
    next = target + 1;
  }
  if (bare_call(SYS_close_range, next, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
    child_fails(plan, Step::descriptors);
}

void child_drops_privileges(const Plan& plan) {
  const ProcessOptions& options = *plan.options;
  for (int capability = 0; capability < 64; ++capability) {
    bare_call(SYS_prctl, PR_CAPBSET_DROP, capability, 0, 0, 0);
  }
  const Credentials& as = options.as;
  if (bare_call(SYS_setgroups, as.groups.size(), as.groups.data()) < 0 ||
      bare_call(SYS_setresgid, as.group, as.group, as.group) < 0 ||
      bare_call(SYS_setresuid, as.user, as.user, as.user) < 0 ||
      bare_call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
    child_fails(plan, Step::privileges);
  }
}

void child_is_lowered() {
  bare_call(SYS_setpriority, PRIO_PROCESS, 0, 0);
  const char* path = "/proc/self/oom_score_adj";
  const long score = bare_call(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
  if (score < 0) return;
  bare_call(SYS_write, score, "0", 1);
  bare_call(SYS_close, score);
}

/// After the change of user, which clears it. A parent that died before is noticed by its pidfd.
void child_dies_with(int parent) {
  bare_call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  pollfd question{parent, POLLIN, 0};
  const timespec now{};
  if (bare_call(SYS_ppoll, &question, 1, &now, nullptr, 0) != 0) bare_call(SYS_exit_group, 127);
}

[[noreturn]] void child_main(Plan& plan) {
  const ProcessOptions& options = *plan.options;
  child_resets_signals();
  if (options.lowered) child_is_lowered();
  if (options.own_session && bare_call(SYS_setsid) < 0) child_fails(plan, Step::session);
  for (const Descriptor& cgroup : plan.cgroups) {
    if (bare_call(SYS_write, cgroup.get(), "0", 1) < 0) child_fails(plan, Step::cgroup);
  }
  if (options.network_namespace >= 0 &&
      bare_call(SYS_setns, options.network_namespace, CLONE_NEWNET) < 0) {
    child_fails(plan, Step::network);
  }
  if (plan.sandbox && !plan.sandbox->enter()) child_fails(plan, Step::sandbox);
  if (bare_call(SYS_chdir, options.working_directory.c_str()) < 0) child_fails(plan, Step::folder);
  child_places_descriptors(plan);
  if (options.as.user != 0) child_drops_privileges(plan);
  if (options.die_with_parent) child_dies_with(plan.parent);
  if (plan.sandbox && !plan.sandbox->lock()) child_fails(plan, Step::sandbox);
  bare_call(SYS_execve, plan.arguments[0], plan.arguments.data(), plan.environment.data());
  child_fails(plan, Step::program);
}

std::vector<char*> null_terminated(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

struct Child {
  pid_t pid = 0;
  Descriptor pidfd;
};

Result<void> wait_for_exec(const ProcessOptions& options, int error_pipe, int pidfd) {
  Failure failure;
  ssize_t count = 0;
  do {
    count = ::read(error_pipe, &failure, sizeof failure);
  } while (count < 0 && errno == EINTR);
  if (count == 0) return {};
  siginfo_t ended{};
  ::waitid(P_PIDFD, static_cast<id_t>(pidfd), &ended, WEXITED);
  return errno_error(fmt::format("start {}: {}", options.arguments[0], text_of(failure.step)),
                     failure.number);
}

Result<Child> start_child(const ProcessOptions& options, std::map<int, int> descriptors) {
  if (options.arguments.empty() || options.arguments[0].front() != '/') {
    return make_error(Errc::invalid, "start a process: the program needs an absolute path");
  }
  if (!options.sandbox.empty() && ::geteuid() == 0 && options.as.user == 0) {
    return make_error(Errc::invalid, "start " + options.arguments[0] +
                                         ": root can leave a sandbox; right is another user");
  }
  Plan plan;
  plan.options = &options;
  std::vector<std::string> arguments = options.arguments;
  std::vector<std::string> environment;
  for (const auto& [name, value] : options.environment) environment.push_back(name + "=" + value);
  plan.arguments = null_terminated(arguments);
  plan.environment = null_terminated(environment);
  for (const std::string& path : options.cgroup_procs) {
    plan.cgroups.emplace_back(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!plan.cgroups.back().valid()) {
      return errno_error(fmt::format("start {}: open {}", options.arguments[0], path), errno);
    }
  }
  plan.descriptors.assign(descriptors.begin(), descriptors.end());
  plan.staged.resize(plan.descriptors.size());
  int pipe_ends[2];
  if (::pipe2(pipe_ends, O_CLOEXEC) != 0) return errno_error("make a pipe", errno);
  const Descriptor read_end(pipe_ends[0]);
  Descriptor write_end(pipe_ends[1]);
  plan.error_pipe = write_end.get();
  Descriptor parent;
  if (options.die_with_parent) {
    parent = Descriptor(static_cast<int>(bare_call(SYS_pidfd_open, ::getpid(), 0U)));
    if (!parent.valid()) return errno_error("follow this process", errno);
  }
  plan.parent = parent.get();
  if (!options.sandbox.empty()) plan.sandbox.emplace(options.sandbox);

  int pidfd = -1;
  clone_args clone{};
  clone.flags = CLONE_PIDFD | (plan.sandbox ? plan.sandbox->clone_flags() : 0);
  clone.pidfd = reinterpret_cast<std::uint64_t>(&pidfd);
  clone.exit_signal = SIGCHLD;
  const long pid = bare_call(SYS_clone3, &clone, sizeof clone);
  if (pid < 0) {
    const char* needed = plan.sandbox ? " in a sandbox (needs root or user namespaces)" : "";
    return errno_error("clone for " + options.arguments[0] + needed, errno);
  }
  if (pid == 0) child_main(plan);
  Child child{static_cast<pid_t>(pid), Descriptor(pidfd)};
  write_end.reset();
  if (auto done = wait_for_exec(options, read_end.get(), pidfd); !done) return done.error();
  return child;
}

Result<std::uint64_t> read_start_ticks(pid_t pid) {
  const auto text = read_file(fmt::format("/proc/{}/stat", pid));
  if (!text) return wrap_error(fmt::format("look at process {}", pid), text.error());
  // The name in parentheses may hold blanks: fields are counted from its end, before field 3.
  std::size_t at = text->rfind(')');
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = text->find(' ', at + 1);
  std::uint64_t ticks = 0;
  if (at == std::string::npos ||
      std::from_chars(text->data() + at + 1, text->data() + text->size(), ticks).ec !=
          std::errc()) {
    return make_error(Errc::internal, fmt::format("/proc/{}/stat makes no sense: {}", pid, *text));
  }
  return ticks;
}

ProcessExit reap(int pidfd) {
  ProcessExit ended;
  siginfo_t info{};
  if (::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG) != 0) return ended;
  if (info.si_code == CLD_EXITED) ended.code = info.si_status;
  if (info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED) ended.signal = info.si_status;
  return ended;
}

class PidfdProcess final : public Process {
 public:
  PidfdProcess(AsioLoop& loop, pid_t pid, Descriptor pidfd, std::uint64_t start_ticks)
      : loop_(loop), pid_(pid), pidfd_(std::move(pidfd)), start_ticks_(start_ticks) {
    loop_.watch_descriptor(pidfd_.get(), [this] { ended(); });
    watched_ = true;
  }
  ~PidfdProcess() override { stop_watching(); }

  pid_t pid() const override { return pid_; }
  int pidfd() const override { return pidfd_.get(); }
  std::uint64_t start_ticks() const override { return start_ticks_; }
  bool running() const override {
    pollfd question{pidfd_.get(), POLLIN, 0};
    return watched_ && ::poll(&question, 1, 0) == 0;
  }
  void signal(int number) override {
    if (watched_) bare_call(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0U);
  }
  void on_exit(std::function<void(ProcessExit)> handler) override {
    handler_ = std::move(handler);
    if (watched_) return;
    loop_.post([this, alive = std::weak_ptr<int>(alive_)] {
      if (!alive.expired()) tell();
    });
  }

 private:
  void stop_watching() {
    if (watched_) loop_.forget_descriptor(pidfd_.get());
    watched_ = false;
  }
  void ended() {
    stop_watching();
    exit_ = reap(pidfd_.get());
    tell();
  }
  void tell() {
    if (auto handler = std::exchange(handler_, nullptr)) handler(exit_);
  }

  AsioLoop& loop_;
  const pid_t pid_;
  const Descriptor pidfd_;
  const std::uint64_t start_ticks_;
  bool watched_ = false;
  ProcessExit exit_;
  std::function<void(ProcessExit)> handler_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

Result<Descriptor> open_output(const std::string& path) {
  const char* name = path.empty() ? "/dev/null" : path.c_str();
  Descriptor file(::open(name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640));
  if (!file.valid()) return errno_error(std::string("open ") + name, errno);
  return file;
}

/// Reads what is there. False when the other side has closed.
bool drain(int descriptor, std::string& text) {
  char piece[16384];
  while (true) {
    const ssize_t count = ::read(descriptor, piece, sizeof piece);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno == EAGAIN;
    if (count == 0) return false;
    const std::size_t room = kOutputMax - text.size();
    text.append(piece, std::min(room, static_cast<std::size_t>(count)));
  }
}

/// Follows a helper until it has ended; false = the deadline passed.
bool follow(int pidfd, Descriptor& out, Descriptor& err, Duration deadline, ProcessOutput& output) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    pollfd questions[3] = {{pidfd, POLLIN, 0}, {out.get(), POLLIN, 0}, {err.get(), POLLIN, 0}};
    const int wait_ms = static_cast<int>(std::min<std::int64_t>(left.count() + 1, 60'000));
    if (::poll(questions, 3, wait_ms) < 0 && errno != EINTR) return false;
    if (out.valid() && !drain(out.get(), output.out)) out.reset();
    if (err.valid() && !drain(err.get(), output.err)) err.reset();
    if (questions[0].revents != 0) return true;
  }
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    reset();
    number_ = other.release();
  }
  return *this;
}

void Descriptor::reset() {
  if (number_ >= 0) ::close(number_);
  number_ = -1;
}

Result<std::unique_ptr<Process>> Process::spawn(AsioLoop& loop, const ProcessOptions& options) {
  auto output = open_output(options.output_path);
  if (!output) return wrap_error("start a process", output.error());
  const Descriptor input(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!input.valid()) return errno_error("open /dev/null", errno);
  std::map<int, int> descriptors = options.descriptors;
  descriptors.emplace(0, input.get());
  descriptors.emplace(1, output->get());
  descriptors.emplace(2, output->get());
  auto child = start_child(options, std::move(descriptors));
  if (!child) return child.error();
  // Our child stays readable in /proc until it is reaped, so that this cannot be another process.
  const auto ticks = read_start_ticks(child->pid);
  if (!ticks) return ticks.error();
  return std::unique_ptr<Process>(
      std::make_unique<PidfdProcess>(loop, child->pid, std::move(child->pidfd), *ticks));
}

Result<std::unique_ptr<Process>> Process::adopt(AsioLoop& loop, pid_t pid,
                                                std::uint64_t start_ticks) {
  Descriptor pidfd(static_cast<int>(bare_call(SYS_pidfd_open, pid, 0U)));
  if (!pidfd.valid() && errno == ESRCH) {
    return make_error(Errc::not_found, fmt::format("adopt process {}: it has ended", pid));
  }
  if (!pidfd.valid()) return errno_error(fmt::format("adopt process {}", pid), errno);
  const auto ticks = read_start_ticks(pid);
  if (!ticks && ticks.error().code != Errc::not_found) return ticks.error();
  if (!ticks || *ticks != start_ticks) {
    return make_error(Errc::not_found,
                      fmt::format("adopt process {}: the pid now belongs to another process", pid));
  }
  pollfd question{pidfd.get(), POLLIN, 0};
  if (::poll(&question, 1, 0) != 0) {
    return make_error(Errc::not_found, fmt::format("adopt process {}: it has ended", pid));
  }
  return std::unique_ptr<Process>(
      std::make_unique<PidfdProcess>(loop, pid, std::move(pidfd), start_ticks));
}

Result<ProcessOutput> run_process(const ProcessOptions& options, Duration deadline) {
  int out_ends[2];
  int err_ends[2];
  if (::pipe2(out_ends, O_CLOEXEC) != 0) return errno_error("make a pipe", errno);
  Descriptor out(out_ends[0]);
  Descriptor out_write(out_ends[1]);
  if (::pipe2(err_ends, O_CLOEXEC) != 0) return errno_error("make a pipe", errno);
  Descriptor err(err_ends[0]);
  Descriptor err_write(err_ends[1]);
  ::fcntl(out.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(err.get(), F_SETFL, O_NONBLOCK);
  const Descriptor input(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  std::map<int, int> descriptors = options.descriptors;
  descriptors.emplace(0, input.get());
  descriptors.emplace(1, out_write.get());
  descriptors.emplace(2, err_write.get());
  auto child = start_child(options, std::move(descriptors));
  if (!child) return child.error();
  out_write.reset();
  err_write.reset();

  ProcessOutput output;
  const bool ended = follow(child->pidfd.get(), out, err, deadline, output);
  if (!ended) {
    bare_call(SYS_pidfd_send_signal, child->pidfd.get(), SIGKILL, nullptr, 0U);
    // Its number is not free before waitid(), so that this group is still its own.
    if (options.own_session) ::kill(-child->pid, SIGKILL);
  }
  siginfo_t info{};
  while (::waitid(P_PIDFD, static_cast<id_t>(child->pidfd.get()), &info, WEXITED) != 0 &&
         errno == EINTR) {
  }
  if (!ended) {
    return make_error(Errc::timeout,
                      fmt::format("{} did not end within {} ms and was killed: {}",
                                  options.arguments[0], to_ms(deadline), output.err));
  }
  (info.si_code == CLD_EXITED ? output.exit.code : output.exit.signal) = info.si_status;
  return output;
}

Result<void> rise_above_guests() {
  constexpr int kNice = -10;
  constexpr const char* kScore = "-900";  // the leash has -1000
  std::string missing;
  if (::setpriority(PRIO_PROCESS, 0, kNice) != 0) missing = "be served first (CAP_SYS_NICE)";
  const Descriptor score(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (!score.valid() || ::write(score.get(), kScore, std::strlen(kScore)) < 0) {
    missing += missing.empty() ? "" : ", ";
    missing += "be ended last (CAP_SYS_RESOURCE)";
  }
  if (missing.empty()) return {};
  return make_error(Errc::denied, "this process cannot rise above guests: " + missing);
}

std::int64_t allow_open_files(std::int64_t wanted) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  const auto asked = static_cast<rlim_t>(wanted);
  if (limit.rlim_cur < asked) {
    rlimit more{asked, std::max(asked, limit.rlim_max)};
    if (::setrlimit(RLIMIT_NOFILE, &more) != 0) {
      more = {std::min(asked, limit.rlim_max), limit.rlim_max};
      ::setrlimit(RLIMIT_NOFILE, &more);
    }
    ::getrlimit(RLIMIT_NOFILE, &limit);
  }
  return static_cast<std::int64_t>(limit.rlim_cur);
}

std::string read_boot_id() {
  auto text = read_file("/proc/sys/kernel/random/boot_id");
  if (!text) return {};
  while (!text->empty() && text->back() == '\n') text->pop_back();
  return *text;
}

}  // namespace virga
