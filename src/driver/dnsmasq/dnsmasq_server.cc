#include "driver/dnsmasq/dnsmasq_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <utility>

#include "base/log.h"
#include "base/reflect.h"
#include "edge/file.h"

namespace virga {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kWaitingMax = 64;
constexpr std::uintmax_t kLogBytesMax = 1 << 20;
constexpr Duration kServesWithin = seconds(5);
constexpr Duration kLookEvery = milliseconds(10);
constexpr Duration kEndsWithin = seconds(3);
constexpr Duration kRestartFirst = milliseconds(10);
constexpr Duration kRestartMax = seconds(5);
constexpr Duration kServedWell = seconds(2);

/// Of one boot of this machine, lost with it.
struct ProcessRecord {
  std::string boot_id;
  std::int64_t pid = 0;
  std::uint64_t start_ticks = 0;
};
BOOST_DESCRIBE_STRUCT(ProcessRecord, (), (boot_id, pid, start_ticks))

/// Whether the file was another one. Read by another user than us.
Result<bool> write_changed(const std::string& path, const std::string& text) {
  const auto present = read_file(path);
  if (present && *present == text) return false;
  if (auto written = replace_file(path, text, 0644); !written) return written.error();
  return true;
}

/// What it said last.
std::string last_line(const std::string& path) {
  const auto text = read_file(path);
  if (!text || text->empty()) return "it said nothing";
  const std::size_t end = text->find_last_not_of('\n');
  const std::size_t begin = text->rfind('\n', end);
  return text->substr(begin + 1, end - begin);
}

}  // namespace

DnsmasqServer::DnsmasqServer(AsioLoop& loop, Worker& worker, DnsmasqOptions options)
    : loop_(loop),
      worker_(worker),
      options_([&] {
        if (::geteuid() != 0) options.user.clear();
        return std::move(options);
      }()),
      calls_(loop, kWaitingMax, "this gateway"),
      exit_deadline_(loop),
      look_(loop),
      restart_(loop),
      restart_pause_(kRestartFirst) {}

void DnsmasqServer::open(Callback<void> done) {
  calls_.run(
      [this](const Callback<void>& ended) {
        // Members are written last: what was cut short before has none, and is not gone on with.
        wanted_ = ::access(path("members").c_str(), F_OK) == 0;
        const auto adopted = adopt();
        if (!adopted && adopted.error().code != Errc::not_found) return ended(adopted.error());
        if (!wanted_) return ended({});
        running() ? catch_up(ended) : start(ended);
      },
      std::move(done));
}

/// An agent that ended between writing a file and telling of it has left one that was not read.
void DnsmasqServer::catch_up(const Callback<void>& done) {
  std::error_code failed;
  const auto started = fs::last_write_time(path("pid"), failed);
  const bool older = failed || fs::last_write_time(path("dnsmasq.conf"), failed) > started;
  if (older || failed) return end([this, done] { start(done); });
  process_->signal(SIGHUP);
  done({});
}

void DnsmasqServer::apply(const GatewaySpec& wanted, Callback<void> done) {
  const auto files = render(wanted, options_);
  if (!files) {
    const std::string what = fmt::format("gateway of VNI {}", wanted.network.vni);
    return answer<void>(loop_, std::move(done), wrap_error(what, files.error()));
  }
  calls_.run(
      [this, files = *files](const Callback<void>& ended) {
        worker_.run<Written>(
            [directory = options_.directory, files] { return write(directory, files); },
            [this, ended, alive = std::weak_ptr(alive_)](Result<Written> written) {
              if (alive.expired()) return;
              written ? serve(*written, ended) : ended(written.error());
            });
      },
      std::move(done));
}

/// On the worker's thread. Members come last, see open().
Result<DnsmasqServer::Written> DnsmasqServer::write(const std::string& directory,
                                                    const DnsmasqFiles& files) {
  if (auto made = make_folders(directory); !made) return made.error();
  std::error_code failed;
  const std::string log = directory + "/dnsmasq.log";
  if (fs::file_size(log, failed) > kLogBytesMax && !failed) fs::resize_file(log, 0, failed);
  const auto configuration = write_changed(directory + "/dnsmasq.conf", files.configuration);
  if (!configuration) return configuration.error();
  const auto names = write_changed(directory + "/names", files.names);
  if (!names) return names.error();
  const auto members = write_changed(directory + "/members", files.members);
  if (!members) return members.error();
  return Written{*configuration, *names || *members};
}

void DnsmasqServer::serve(Written written, const Callback<void>& done) {
  wanted_ = true;
  if (!running()) return start(done);
  if (written.configuration) {
    return end([this, done] { start(done); });
  }
  if (written.members) process_->signal(SIGHUP);
  done({});
}

void DnsmasqServer::start(const Callback<void>& done) {
  restart_.cancel();
  if (auto spawned = spawn(); !spawned) {
    restart_later();
    return done(std::move(spawned));
  }
  await(loop_.now() + kServesWithin, done);
}

/// Its file with the pid is there when its sockets are.
void DnsmasqServer::await(Instant until, const Callback<void>& done) {
  if (!running()) {
    return done(make_error(Errc::unavailable, options_.directory + ": dnsmasq has ended: " +
                                                  last_line(path("dnsmasq.log"))));
  }
  if (::access(path("pid").c_str(), F_OK) == 0) return done({});
  if (loop_.now() >= until) {
    return done(make_error(Errc::timeout, options_.directory + ": dnsmasq does not serve: " +
                                              last_line(path("dnsmasq.log"))));
  }
  look_.set_after(kLookEvery, [this, until, done] { await(until, done); });
}

void DnsmasqServer::end(const Task& then) {
  if (!running()) return then();
  on_exit_ = then;
  process_->signal(SIGTERM);
  exit_deadline_.set_after(kEndsWithin, [this] {
    if (process_ != nullptr) process_->signal(SIGKILL);
  });
}

void DnsmasqServer::remove(Callback<void> done) {
  calls_.run(
      [this](const Callback<void>& ended) {
        wanted_ = false;
        restart_.cancel();
        end([this, ended] {
          worker_.run<void>(
              [directory = options_.directory]() -> Result<void> {
                std::error_code failed;
                fs::remove_all(directory, failed);
                if (failed) return errno_error("remove " + directory, failed.value());
                return {};
              },
              ended);
        });
      },
      std::move(done));
}

Result<void> DnsmasqServer::spawn() {
  ProcessOptions made;
  made.arguments = {options_.program, "--keep-in-foreground",
                    "--conf-file=" + path("dnsmasq.conf")};
  made.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/sbin:/usr/bin:/sbin:/bin"}};
  made.output_path = path("dnsmasq.log");
  made.lowered = true;
  Descriptor space;
  if (!options_.network_namespace.empty()) {
    space = Descriptor(::open(options_.network_namespace.c_str(), O_RDONLY | O_CLOEXEC));
    if (!space.valid()) return errno_error("open " + options_.network_namespace, errno);
    made.network_namespace = space.get();
  }
  for (const char* stale : {"dnsmasq.log", "pid"}) ::unlink(path(stale).c_str());
  auto process = Process::spawn(loop_, made);
  if (!process) return process.error();
  follow(std::move(*process));
  const ProcessRecord record{read_boot_id(), process_->pid(), process_->start_ticks()};
  return replace_file(path("process.json"), to_json_text(record), 0600);
}

Result<void> DnsmasqServer::adopt() {
  const auto text = read_file(path("process.json"));
  if (!text) return text.error();
  const auto record = from_json_text<ProcessRecord>(*text, UnknownFields::ignore);
  if (!record || record->boot_id != read_boot_id())
    return make_error(Errc::not_found, "dnsmasq ended with an earlier boot");
  auto process = Process::adopt(loop_, static_cast<pid_t>(record->pid), record->start_ticks);
  if (!process) return process.error();
  follow(std::move(*process));
  return {};
}

void DnsmasqServer::follow(std::unique_ptr<Process> process) {
  process_ = std::move(process);
  started_ = loop_.now();
  process_->on_exit([this](ProcessExit) {
    // Later: who hears it may replace this process.
    loop_.post([this, alive = std::weak_ptr(alive_)] {
      if (!alive.expired()) exited();
    });
  });
}

void DnsmasqServer::exited() {
  if (running()) return;  // another one by now
  exit_deadline_.cancel();
  if (auto told = std::exchange(on_exit_, nullptr)) return told();
  if (!wanted_) return;
  log_line(LogLevel::warning, "gateway",
           options_.directory + ": dnsmasq has ended: " + last_line(path("dnsmasq.log")));
  if (loop_.now() - started_ > kServedWell) restart_pause_ = kRestartFirst;
  restart_later();
}

void DnsmasqServer::restart_later() {
  restart_.set_after(restart_pause_, [this] {
    restart_pause_ = std::min(restart_pause_ * 2, kRestartMax);
    calls_.run(
        [this](const Callback<void>& ended) {
          if (!wanted_ || running()) return ended({});
          start(ended);
        },
        [this](const Result<void>& served) {
          if (!served) log_line(LogLevel::warning, "gateway", served.error().text());
        });
  });
}

}  // namespace virga
