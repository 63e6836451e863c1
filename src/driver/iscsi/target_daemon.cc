#include "driver/iscsi/target_daemon.h"

#include <unistd.h>

#include <csignal>
#include <utility>

#include "base/log.h"
#include "driver/volumes/server_record.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr int kClaimDescriptor = 10;
constexpr std::size_t kWaitingMax = 256;
constexpr std::size_t kJobsMax = 4;
constexpr Duration kStartWithin = seconds(3);
constexpr Duration kExitWithin = seconds(4);
constexpr Duration kLookEvery = milliseconds(10);

}  // namespace

TargetDaemon::TargetDaemon(AsioLoop& loop, const IscsiOptions& options)
    : loop_(loop),
      options_(options),
      calls_(loop, kWaitingMax, "the iSCSI daemon"),
      exit_deadline_(loop),
      worker_(loop, 1, kJobsMax) {}

Result<void> TargetDaemon::know() {
  if (known_) return {};
  auto process = adopt_server(loop_, record());
  if (process) {
    follow(std::move(*process));
  } else if (process.error().code != Errc::not_found) {
    return wrap_error("the iSCSI daemon of " + options_.directory, process.error());
  }
  known_ = true;
  return {};
}

void TargetDaemon::follow(std::unique_ptr<Process> process) {
  process_ = std::move(process);
  process_->on_exit([this, alive = std::weak_ptr(alive_)](ProcessExit) {
    // Later: who hears it may replace the process.
    loop_.post([this, alive] {
      if (!alive.expired()) ended();
    });
  });
}

void TargetDaemon::ended() {
  log_line(LogLevel::warning, "volume", "the iSCSI daemon of " + options_.directory + " has ended");
  exited_with({});
  for (const std::weak_ptr<Task>& handler : std::exchange(handlers_, {})) {
    const auto task = handler.lock();
    if (task == nullptr) continue;
    handlers_.push_back(handler);
    (*task)();
  }
}

void TargetDaemon::exited_with(const Result<void>& outcome) {
  exit_deadline_.cancel();
  if (auto told = std::exchange(on_exit_, nullptr)) told(outcome);
}

std::shared_ptr<Task> TargetDaemon::on_ended(Task handler) {
  auto held = std::make_shared<Task>(std::move(handler));
  std::erase_if(handlers_, [](const std::weak_ptr<Task>& one) { return one.expired(); });
  handlers_.push_back(held);
  return held;
}

void TargetDaemon::work(std::function<Result<void>(TargetAdmin&)> job, Callback<void> done) {
  worker_.run<void>(
      [job = std::move(job), program = options_.admin, control = control(),
       obey_within = options_.obey_within] {
        TargetAdmin admin(program, control, obey_within);
        return job(admin);
      },
      [done = std::move(done), alive = std::weak_ptr(alive_)](Result<void> worked) {
        if (!alive.expired()) done(std::move(worked));
      });
}

void TargetDaemon::serve(const std::string& prefix, const std::vector<Target>& wanted,
                         Callback<void> done) {
  const auto align = [prefix, wanted](TargetAdmin& admin) { return admin.align(prefix, wanted); };
  const auto begin = [this, align](const Callback<void>& aligned) {
    start([this, align, aligned](Result<void> started) {
      if (!started) return aligned(std::move(started));
      work(align, aligned);
    });
  };
  const auto again = [this, begin](const Error& why, const Callback<void>& ended) {
    log_line(LogLevel::warning, "volume", "the iSCSI daemon is replaced: " + why.text());
    end([begin, ended](Result<void> gone) {
      if (!gone) return ended(std::move(gone));
      begin(ended);
    });
  };
  calls_.run(
      [begin, again](const Callback<void>& ended) {
        begin([again, ended](Result<void> aligned) {
          if (aligned) return ended({});
          again(aligned.error(), ended);
        });
      },
      std::move(done));
}

void TargetDaemon::cut(const std::string& prefix, const std::vector<Target>& wanted,
                       Callback<void> done) {
  const auto align = [prefix, wanted](TargetAdmin& admin) { return admin.align(prefix, wanted); };
  calls_.run(
      [this, align](const Callback<void>& ended) {
        if (!running()) return ended({});
        work(align, [this, ended](const Result<void>& aligned) {
          if (aligned) return ended({});
          log_line(LogLevel::warning, "volume",
                   "the iSCSI daemon does not obey and is killed: " + aligned.error().text());
          end(ended);
        });
      },
      std::move(done));
}

void TargetDaemon::start(Callback<void> done) {
  if (running()) return done({});
  if (auto made = make_folders(state_folder(), 0700); !made) return done(std::move(made));
  const auto claim = claim_server(record());
  if (!claim) return done(claim.error());
  ProcessOptions made;
  const std::string portal = options_.address + ":" + std::to_string(options_.port);
  made.arguments = {options_.program, "-f", "-C", "0", "--iscsi", "portal=" + portal};
  made.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/bin:/bin"}, {"TGT_IPC_SOCKET", control()}};
  made.descriptors = {{kClaimDescriptor, claim->get()}};
  made.output_path = state_folder() + "/server.log";
  ::unlink(made.output_path.c_str());
  auto process = Process::spawn(loop_, made);
  if (!process) return done(process.error());
  follow(std::move(*process));
  if (auto noted = note_server(record(), *process_); !noted) {
    return end([noted, done](const Result<void>&) { done(noted); });
  }
  greet(loop_.now() + kStartWithin, std::move(done));
}

/// Its socket is there a moment after its process.
void TargetDaemon::greet(Instant until, Callback<void> done) {
  work([](TargetAdmin& admin) { return admin.greet(); },
       [this, until, done = std::move(done)](Result<void> greeted) {
         if (greeted) return done({});
         if (!running() || loop_.now() >= until) {
           return done(
               wrap_error("start tgtd, see " + state_folder() + "/server.log", greeted.error()));
         }
         loop_.after(kLookEvery, [this, until, done, alive = std::weak_ptr(alive_)] {
           if (!alive.expired()) greet(until, done);
         });
       });
}

/// Its end is the proof: a process that is gone writes nothing.
void TargetDaemon::end(Callback<void> done) {
  if (!running()) return done({});
  exit_deadline_.set_after(kExitWithin, [this] {
    exited_with(make_error(Errc::timeout, "the iSCSI daemon was killed and has not ended yet"));
  });
  on_exit_ = std::move(done);
  process_->signal(SIGKILL);
}

}  // namespace virga
