#include "driver/haproxy/haproxy_balancer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <utility>

#include "base/log.h"
#include "driver/haproxy/control.h"
#include "driver/haproxy/frontend_probe.h"
#include "driver/haproxy/servers.h"
#include "edge/file.h"

namespace virga {
namespace {

namespace fs = std::filesystem;

constexpr int kThreads = 2;  // one for changes, one for who looks
constexpr std::size_t kJobsMax = 64;
constexpr std::size_t kWaitingMax = 64;
constexpr std::size_t kUnwantedMax = 64;
constexpr std::uintmax_t kLogBytesMax = 1 << 20;
constexpr Duration kCheckWithin = seconds(5);
constexpr Duration kChangesWithin = seconds(15);
constexpr Duration kTakesBackWithin = seconds(5);
constexpr Duration kEndsWithin = seconds(5);
constexpr Duration kLooksWithin = seconds(8);
constexpr Duration kRestartFirst = milliseconds(10);
constexpr Duration kRestartMax = seconds(5);
constexpr Duration kServedWell = seconds(2);

/// The master process; of one boot of this machine, lost with it.
struct MasterRecord {
  std::string boot_id;
  std::int64_t pid = 0;
  std::uint64_t start_ticks = 0;
};
BOOST_DESCRIBE_STRUCT(MasterRecord, (), (boot_id, pid, start_ticks))

std::string configuration_path(const std::string& folder) { return folder + "/haproxy.cfg"; }
std::string certificates_path(const std::string& folder) { return folder + "/certificates"; }
std::string wanted_path(const std::string& folder) { return folder + "/wanted.json"; }
std::string master_path(const std::string& folder) { return folder + "/master.json"; }
std::string state_path(const std::string& folder) { return folder + "/servers.state"; }

ProcessOptions program(const HaproxyOptions& options, std::vector<std::string> arguments) {
  ProcessOptions made;
  made.arguments = std::move(arguments);
  made.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/sbin:/usr/bin:/sbin:/bin"}};
  made.working_directory = options.directory;
  made.lowered = true;
  return made;
}

/// It grows with each change of a server's health.
void bound_log(const std::string& path) {
  std::error_code failed;
  if (fs::file_size(path, failed) > kLogBytesMax && !failed) fs::resize_file(path, 0, failed);
}

Result<void> write_certificates(const HaproxyOptions& options,
                                const HaproxyConfiguration& configuration) {
  if (auto made = make_folders(certificates_path(options.directory), 0700); !made) return made;
  for (const auto& [name, pem] : configuration.certificates) {
    const std::string path = options.directory + "/" + name;
    if (::access(path.c_str(), F_OK) == 0) continue;
    if (auto written = write_file_atomically(path, pem, 0600); !written) return written;
  }
  return {};
}

void forget_certificates(const HaproxyOptions& options, const HaproxyConfiguration& configuration) {
  std::error_code failed;
  for (const auto& file : fs::directory_iterator(certificates_path(options.directory), failed)) {
    const std::string name = "certificates/" + file.path().filename().string();
    if (!configuration.certificates.contains(name)) fs::remove(file.path(), failed);
  }
}

/// HAProxy's own judgement of a file that nobody uses yet.
Result<void> check_configuration(const HaproxyOptions& options, const std::string& text) {
  const std::string candidate = options.directory + "/candidate.cfg";
  if (auto written = replace_file(candidate, text, 0600); !written) return written;
  const auto ended =
      run_process(program(options, {options.program, "-c", "-f", "candidate.cfg"}), kCheckWithin);
  ::unlink(candidate.c_str());
  if (!ended) return ended.error();
  if (ended->exit.code == 0) return {};
  return make_error(Errc::invalid,
                    "HAProxy refuses the configuration: " + alerts_in(ended->err + ended->out));
}

/// The file first: what was written there counts, whatever happens next.
Result<void> write_configuration(const HaproxyOptions& options,
                                 const HaproxyConfiguration& configuration) {
  if (auto written = write_certificates(options, configuration); !written) return written;
  const std::string path = configuration_path(options.directory);
  const auto present = read_file(path);
  if (present && *present == configuration.text) return {};
  // Servers have been judged by validate(); what else there is, HAProxy judges.
  if (!present || shape_in(*present) != configuration.shape) {
    if (auto fine = check_configuration(options, configuration.text); !fine) return fine;
  }
  return write_file_atomically(path, configuration.text, 0600);
}

Result<void> change_servers(const HaproxyControl& control, const BalancerSpec& wanted) {
  std::string answers;
  for (int round = 0; round < 2; ++round) {
    const auto rows = control.rows();
    if (!rows) return rows.error();
    const auto commands = commands_for(wanted, *rows);
    if (commands.empty()) return {};
    for (const std::string& command : commands) {
      const auto answer = control.ask(command);
      if (!answer) return answer.error();
      if (answer->size() > 1) answers += fmt::format("{}: {} ", command, *answer);
    }
  }
  const auto rows = control.rows();
  if (rows && commands_for(wanted, *rows).empty()) return {};
  return make_error(Errc::internal, "HAProxy does not take its servers: " + answers);
}

Result<void> reload(const HaproxyControl& control, const HaproxyOptions& options,
                    const BalancerSpec& wanted) {
  const auto state = control.ask("show servers state");
  if (!state) return state.error();
  const std::string path = state_path(options.directory);
  auto done = replace_file(path, keep_down_servers(wanted, *state), 0600);
  if (done) done = control.reload();
  ::unlink(path.c_str());  // a later start must not believe it
  return done;
}

/// Makes the running HAProxy equal to what its file says.
Result<void> converge(const HaproxyControl& control, const HaproxyOptions& options,
                      const BalancerSpec& wanted, const HaproxyConfiguration& configuration) {
  bound_log(control.log_path());
  if (auto serves = control.await(); !serves) return serves;
  const auto shape = control.description();
  if (!shape) return shape.error();
  const auto rows = control.rows();
  if (!rows) return rows.error();
  if (*shape != configuration.shape || count_unwanted(wanted, *rows) > kUnwantedMax) {
    if (auto done = reload(control, options, wanted); !done) return done;
  }
  if (auto done = change_servers(control, wanted); !done) return done;
  forget_certificates(options, configuration);
  return write_file_atomically(wanted_path(options.directory), to_json_text(wanted), 0600);
}

/// Every apply() begins with the certificates: a folder without them is not a balancer's.
Result<void> erase_folder(const std::string& directory) {
  if (::access(certificates_path(directory).c_str(), F_OK) != 0) return {};
  std::error_code failed;
  fs::remove_all(directory, failed);
  if (failed) return errno_error("remove " + directory, failed.value());
  return {};
}

Result<BalancerSpec> read_wanted(const HaproxyOptions& options) {
  const std::string path = wanted_path(options.directory);
  const auto text = read_file(path);
  if (!text && text.error().code == Errc::not_found) return BalancerSpec();
  if (!text) return text.error();
  auto wanted = from_json_text<BalancerSpec>(*text, UnknownFields::ignore);
  if (!wanted) return wrap_error("read " + path, wanted.error());
  if (auto fine = validate(*wanted); !fine) return wrap_error("read " + path, fine.error());
  return wanted;
}

/// Not complete is not told: who counts sessions would believe that a server has finished.
Result<ObservedBalancer> look_at(const HaproxyControl& control, const BalancerSpec& in_force) {
  bound_log(control.log_path());
  const auto workers = control.workers();
  if (!workers) return workers.error();
  const auto rows = control.rows();
  if (!rows) return rows.error();
  HaproxyRows old;
  for (const std::int64_t pid : workers->old) {
    const auto more = control.rows(pid);  // may have ended meanwhile
    if (!more && more.error().code == Errc::timeout) return more.error();
    if (more) old.insert(old.end(), more->begin(), more->end());
  }
  ObservedBalancer seen = to_observed(in_force, *rows, old);
  seen.revision = in_force.revision;
  seen.counters = std::to_string(workers->current);
  return seen;
}

/// Each connection has two ends; HAProxy does not start when it may not open as many descriptors.
int connections_possible() {
  constexpr rlim_t kForItself = 1000;
  constexpr rlim_t kEnough = 1'000'000;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1000;
  const rlim_t most = std::min(limit.rlim_max, kEnough);
  return static_cast<int>(std::max<rlim_t>(most, kForItself + 200) - kForItself) / 2;
}

}  // namespace

HaproxyBalancer::HaproxyBalancer(AsioLoop& loop, HaproxyOptions options)
    : loop_(loop),
      options_([&] {
        if (::geteuid() != 0) options.user.clear();
        if (options.connections_max == 0) options.connections_max = connections_possible();
        return std::move(options);
      }()),
      calls_(loop, kWaitingMax, "this load balancer"),
      exit_deadline_(loop),
      restart_(loop),
      restart_pause_(kRestartFirst),
      worker_(loop, kThreads, kJobsMax) {}

HaproxyBalancer::~HaproxyBalancer() = default;

void HaproxyBalancer::on_worker(std::function<Result<void>()> job, Callback<void> done) {
  worker_.run<void>(std::move(job),
                    [done = std::move(done), alive = std::weak_ptr(alive_)](Result<void> outcome) {
                      if (!alive.expired()) done(std::move(outcome));
                    });
}

void HaproxyBalancer::open(Callback<void> done) {
  calls_.run([this](const Callback<void>& ended) { open_now(ended); }, std::move(done));
}

void HaproxyBalancer::open_now(const Callback<void>& done) {
  worker_.run<BalancerSpec>(
      [options = options_] { return read_wanted(options); },
      [this, done, alive = std::weak_ptr(alive_)](Result<BalancerSpec> wanted) {
        if (alive.expired()) return;
        if (!wanted) return done(wanted.error());
        in_force_ = std::move(*wanted);
        const auto adopted = adopt();
        if (!adopted && adopted.error().code != Errc::not_found) return done(adopted.error());
        if (in_force_.revision == 0) return remove_now(done);  // of an apply() that was cut short
        apply_now(in_force_, [this, done](Result<void> applied) {
          if (!applied) restart_later();
          done(std::move(applied));
        });
      });
}

void HaproxyBalancer::apply(const BalancerSpec& wanted, Callback<void> done) {
  if (auto fine = validate(wanted); !fine) {
    return answer<void>(loop_, std::move(done), wrap_error("load balancer", fine.error()));
  }
  calls_.run(
      [this, wanted](const Callback<void>& ended) {
        if (wanted.revision < in_force_.revision) return ended({});
        apply_now(wanted, [this, wanted, ended](Result<void> applied) {
          if (!applied) return ended(std::move(applied));
          in_force_ = wanted;
          ended({});
        });
      },
      std::move(done));
}

void HaproxyBalancer::apply_now(const BalancerSpec& wanted, const Callback<void>& done) {
  on_worker(
      [options = options_, wanted, in_force = in_force_]() -> Result<void> {
        auto free = probe_frontends(wanted, in_force, options.network_namespace);
        return free ? write_configuration(options, render(wanted, options)) : free;
      },
      [this, wanted, done](Result<void> written) {
        if (!written) return take_back(written.error(), done);
        run_with(wanted, [this, done](Result<void> served) {
          if (served) return done({});
          take_back(served.error(), done);
        });
      });
}

void HaproxyBalancer::run_with(const BalancerSpec& wanted, const Callback<void>& done) {
  if (!running()) {
    if (auto started = start(); !started) return done(std::move(started));
  }
  on_worker(
      [this, options = options_, wanted, watched = watched_] {
        const HaproxyControl control(loop_, options.directory, watched->get(), kChangesWithin);
        return converge(control, options, wanted, render(wanted, options));
      },
      done);
}

/// What was in force stays so, in the file too; HAProxy itself has not taken the new one over.
void HaproxyBalancer::take_back(const Error& why, const Callback<void>& done) {
  const auto taken_back = [done, why](const Result<void>&) { done(why); };
  if (in_force_.revision == 0) return remove_now(taken_back);
  on_worker(
      [this, options = options_, in_force = in_force_, watched = watched_]() -> Result<void> {
        const HaproxyConfiguration configuration = render(in_force, options);
        auto written =
            write_file_atomically(configuration_path(options.directory), configuration.text, 0600);
        const HaproxyControl control(loop_, options.directory, watched->get(), kTakesBackWithin);
        const auto shape = control.description();
        forget_certificates(options, configuration);
        if (!written || !shape || *shape != configuration.shape) return written;
        return change_servers(control, in_force);
      },
      taken_back);
}

void HaproxyBalancer::observe(Callback<ObservedBalancer> done) {
  if (!running()) {
    const auto why = make_error(Errc::unavailable, "the load balancer does not run");
    return answer<ObservedBalancer>(loop_, std::move(done), why);
  }
  worker_.run<ObservedBalancer>(
      [this, options = options_, in_force = in_force_, watched = watched_] {
        const HaproxyControl control(loop_, options.directory, watched->get(), kLooksWithin);
        return look_at(control, in_force);
      },
      [done = std::move(done), alive = std::weak_ptr(alive_)](Result<ObservedBalancer> seen) {
        if (!alive.expired()) done(std::move(seen));
      });
}

void HaproxyBalancer::remove(Callback<void> done) {
  calls_.run([this](const Callback<void>& ended) { remove_now(ended); }, std::move(done));
}

void HaproxyBalancer::remove_now(const Callback<void>& done) {
  restart_.cancel();
  in_force_ = {};
  const auto erase = [this, done](const Result<void>&) {
    on_worker([directory = options_.directory] { return erase_folder(directory); }, done);
  };
  if (!running()) return erase({});
  on_exit_ = erase;
  process_->signal(SIGTERM);
  exit_deadline_.set_after(kEndsWithin, [this] {
    if (process_ != nullptr) process_->signal(SIGKILL);
  });
}

Result<void> HaproxyBalancer::start() {
  ProcessOptions made = program(
      options_, {options_.program, "-W", "-S", "unix@master.sock,mode,600", "-f", "haproxy.cfg"});
  Descriptor space;
  if (!options_.network_namespace.empty()) {
    space = Descriptor(::open(options_.network_namespace.c_str(), O_RDONLY | O_CLOEXEC));
    if (!space.valid()) return errno_error("open " + options_.network_namespace, errno);
    made.network_namespace = space.get();
  }
  made.output_path = options_.directory + "/haproxy.log";
  for (const char* stale : {"/haproxy.log", "/master.sock", "/servers.state"}) {
    ::unlink((options_.directory + stale).c_str());
  }
  auto process = Process::spawn(loop_, made);
  if (!process) return process.error();
  follow(std::move(*process));
  const MasterRecord record{read_boot_id(), process_->pid(), process_->start_ticks()};
  return replace_file(master_path(options_.directory), to_json_text(record), 0600);
}

Result<void> HaproxyBalancer::adopt() {
  const auto text = read_file(master_path(options_.directory));
  if (!text) return text.error();
  const auto record = from_json_text<MasterRecord>(*text, UnknownFields::ignore);
  // Written by rename, without a wait for the disk: only a crash of the machine damages it.
  if (!record || record->boot_id != read_boot_id()) {
    return make_error(Errc::not_found, "HAProxy ended with an earlier boot");
  }
  auto process = Process::adopt(loop_, static_cast<pid_t>(record->pid), record->start_ticks);
  if (!process) return process.error();
  follow(std::move(*process));
  return {};
}

void HaproxyBalancer::follow(std::unique_ptr<Process> process) {
  process_ = std::move(process);
  started_ = loop_.now();
  watched_ = std::make_shared<Descriptor>(::fcntl(process_->pidfd(), F_DUPFD_CLOEXEC, 0));
  process_->on_exit([this](ProcessExit) {
    // Later: who hears it may replace this process.
    loop_.post([this, alive = std::weak_ptr(alive_)] {
      if (!alive.expired()) exited();
    });
  });
}

void HaproxyBalancer::exited() {
  if (running()) return;  // another one by now
  exit_deadline_.cancel();
  if (auto told = std::exchange(on_exit_, nullptr)) return told({});
  if (in_force_.revision == 0) return;
  log_line(LogLevel::warning, "balancer", options_.directory + ": HAProxy has ended");
  if (loop_.now() - started_ > kServedWell) restart_pause_ = kRestartFirst;
  restart_later();
}

void HaproxyBalancer::restart_later() {
  restart_.set_after(restart_pause_, [this] {
    restart_pause_ = std::min(restart_pause_ * 2, kRestartMax);
    calls_.run(
        [this](const Callback<void>& ended) {
          in_force_.revision == 0 ? ended({}) : run_with(in_force_, ended);
        },
        [this](Result<void> served) {
          if (served) return;
          log_line(LogLevel::warning, "balancer",
                   options_.directory + ": " + served.error().text());
          restart_later();
        });
  });
}

}  // namespace virga
