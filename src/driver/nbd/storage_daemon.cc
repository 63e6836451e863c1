#include "driver/nbd/storage_daemon.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <utility>

#include "driver/qmp/unix_socket.h"
#include "driver/volumes/server_record.h"
#include "edge/tls.h"

namespace virga {
namespace {

namespace json = boost::json;

constexpr int kQmpDescriptor = 10;
constexpr int kListenDescriptor = 11;
constexpr int kClaimDescriptor = 12;
constexpr Duration kGreeting = seconds(5);

// Nodes of the one copy that can be under way. QEMU puts the first over "top": what is overwritten
// through it goes to the copy first. As long as it is there exports are made on it.
const std::string kCopying = "copying";
const std::string kCopy = "copy";

std::string text_of(const json::object& object) { return json::serialize(object); }

Result<void> without_value(const Result<json::value>& answer) {
  return answer ? Result<void>() : Result<void>(answer.error());
}

/// A tenant's and a volume's name hold no dot.
std::string job_of(const VolumeCopy& copy) {
  std::string name = copy.volume.value;
  std::replace(name.begin(), name.end(), '/', '.');
  return "copy-" + name;
}

std::string word_of(const json::object& object, std::string_view name) {
  const auto* word = object.if_contains(name);
  return word != nullptr && word->is_string() ? std::string(word->get_string()) : std::string();
}

}  // namespace

StorageDaemon::StorageDaemon(AsioLoop& loop, const NbdOptions& options, NbdFiles files, Task exited)
    : loop_(loop), options_(options), files_(std::move(files)), exited_(std::move(exited)) {}

StorageDaemon::~StorageDaemon() = default;

Result<void> StorageDaemon::launch(const Descriptor& listener) {
  const auto claim = claim_server(files_.server());
  if (!claim) return claim.error();
  auto qmp = listen_unix(files_.qmp());
  if (!qmp) return qmp.error();
  ProcessOptions made;
  made.arguments = {options_.program,
                    "--chardev",
                    "socket,id=qmp,fd=" + std::to_string(kQmpDescriptor) + ",server=on,wait=off",
                    "--monitor",
                    "chardev=qmp",
                    "--object",
                    "tls-creds-psk,id=tls,endpoint=server,priority=" + psk_priority() +
                        ",dir=" + files_.keys(),
                    "--object",
                    "throttle-group,id=limits",
                    "--nbd-server",
                    "addr.type=fd,addr.str=" + std::to_string(kListenDescriptor) +
                        ",tls-creds=tls,max-connections=" + std::to_string(options_.consumers_max),
                    // Each of them says that zeroes may be holes, or none are made.
                    "--blockdev",
                    text_of({{"driver", "file"},
                             {"node-name", "file"},
                             {"filename", files_.image()},
                             {"discard", "unmap"}}),
                    "--blockdev",
                    text_of({{"driver", "raw"},
                             {"node-name", "format"},
                             {"discard", "unmap"},
                             {"file", "file"}}),
                    "--blockdev",
                    text_of({{"driver", "throttle"},
                             {"node-name", "top"},
                             {"throttle-group", "limits"},
                             {"discard", "unmap"},
                             {"file", "format"}})};
  made.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/bin:/bin"}};
  made.descriptors = {{kQmpDescriptor, qmp->get()},
                      {kListenDescriptor, listener.get()},
                      {kClaimDescriptor, claim->get()}};
  made.output_path = files_.log();
  ::unlink(made.output_path.c_str());
  auto process = Process::spawn(loop_, made);
  if (!process) return process.error();
  follow(std::move(*process));
  return note_server(files_.server(), *process_);
}

Result<void> StorageDaemon::adopt() {
  auto process = adopt_server(loop_, files_.server());
  if (!process) return process.error();
  follow(std::move(*process));
  return {};
}

void StorageDaemon::follow(std::unique_ptr<Process> process) {
  process_ = std::move(process);
  process_->on_exit([this](ProcessExit) {
    open_ = false;
    // Later: who hears it may replace this object.
    if (exited_) loop_.post(std::exchange(exited_, nullptr));
  });
}

void StorageDaemon::connect(Callback<void> done) {
  open_ = false;
  auto socket = connect_unix(files_.qmp());
  if (!socket) return loop_.post([done, why = socket.error()] { done(why); });
  qmp_ = std::make_unique<QmpClient>(loop_, std::make_unique<QmpSocket>(loop_, std::move(*socket)));
  qmp_->on_closed([this](const Error&) { open_ = false; });
  qmp_->open(kGreeting, [this, done](Result<void> opened) {
    open_ = opened.ok();
    done(std::move(opened));
  });
}

void StorageDaemon::execute(const std::string& command, json::object arguments,
                            Callback<json::value> done) {
  if (open_) return qmp_->execute(command, std::move(arguments), options_.obey_within, done);
  loop_.post([done] { done(make_error(Errc::unavailable, "the volume's server is not there")); });
}

void StorageDaemon::add_export(const std::string& name, Callback<void> done) {
  const json::object over_copy = {{"type", "nbd"},
                                  {"id", name},
                                  {"node-name", kCopying},
                                  {"name", name},
                                  {"writable", true}};
  execute("block-export-add", over_copy,
          [this, over_copy, done](const Result<json::value>& answer) {
            if (answer || answer.error().code != Errc::internal) return done(without_value(answer));
            json::object plain = over_copy;  // nothing is being copied
            plain["node-name"] = "top";
            execute("block-export-add", plain, [done](const Result<json::value>& added) {
              done(without_value(added));
            });
          });
}

void StorageDaemon::remove_export(const std::string& name, Callback<void> done) {
  execute("block-export-del", {{"id", name}, {"mode", "hard"}},
          [this, name, done](Result<json::value> answer) {
            // One that is not there is refused in QEMU's words; the list tells.
            if (!answer && answer.error().code != Errc::internal) return done(answer.error());
            await_removal(name, loop_.now() + options_.obey_within, done);
          });
}

/// The answer may come before the last request of its consumers has ended; the list knows.
void StorageDaemon::await_removal(const std::string& name, Instant until, Callback<void> done) {
  list_exports([this, name, until, done](Result<std::vector<std::string>> names) {
    if (!names) return done(names.error());
    if (std::find(names->begin(), names->end(), name) == names->end()) return done({});
    if (loop_.now() >= until) return done(make_error(Errc::timeout, "an export does not go away"));
    loop_.after(milliseconds(2), [this, name, until, done, alive = std::weak_ptr(alive_)] {
      if (!alive.expired()) await_removal(name, until, done);
    });
  });
}

void StorageDaemon::list_exports(Callback<std::vector<std::string>> done) {
  execute("query-block-exports", {}, [done](Result<json::value> answer) {
    if (!answer) return done(answer.error());
    std::vector<std::string> names;
    if (!answer->is_array()) return done(make_error(Errc::internal, "no list of exports came"));
    for (const json::value& one : answer->get_array()) {
      const auto* id = one.is_object() ? one.get_object().if_contains("id") : nullptr;
      if (id != nullptr && id->is_string()) names.emplace_back(id->get_string());
    }
    done(std::move(names));
  });
}

/// The only kind of job that it has is a copy, one at a time; without an id there is none.
void StorageDaemon::find_copy(Callback<Job> done) {
  execute("query-jobs", {}, [done](const Result<json::value>& answer) {
    if (!answer) return done(answer.error());
    if (!answer->is_array()) return done(make_error(Errc::internal, "no list of jobs came"));
    Job found;
    for (const json::value& one : answer->get_array()) {
      if (!one.is_object()) continue;
      const json::object& job = one.get_object();
      found = {word_of(job, "id"), word_of(job, "status") == "concluded", word_of(job, "error")};
    }
    done(std::move(found));
  });
}

void StorageDaemon::copy(const VolumeCopy& copy, Callback<CopyState> done) {
  find_copy([this, copy, done](const Result<Job>& found) {
    if (!found) return done(found.error());
    if (found->id.empty()) return start_copy(copy, done);
    if (found->id != job_of(copy)) return done(CopyState::waits);
    if (!found->concluded) return done(CopyState::goes_on);
    forget_copy(found->id, [error = found->error, done](const Result<void>& forgotten) {
      if (!forgotten) return done(forgotten.error());
      if (error.empty()) return done(CopyState::complete);
      done(make_error(Errc::unavailable, "it could not be copied: " + error));
    });
  });
}

void StorageDaemon::start_copy(const VolumeCopy& copy, Callback<CopyState> done) {
  const json::object file = {{"driver", "file"}, {"filename", copy.image}, {"discard", "unmap"}};
  const json::object target = {{"driver", "raw"}, {"node-name", kCopy}, {"file", file}};
  const json::object backup = {{"job-id", job_of(copy)},
                               {"device", "top"},
                               {"target", kCopy},
                               {"sync", "full"},
                               {"speed", to_bytes(options_.copied_a_second).value},
                               {"auto-dismiss", false},
                               {"filter-node-name", kCopying}};
  const auto begin = [this, backup, done](const Result<json::value>& added) {
    if (!added) return done(added.error());
    execute("blockdev-backup", backup, [this, done](const Result<json::value>& began) {
      if (began) return done(CopyState::began);
      execute("blockdev-del", {{"node-name", kCopy}},
              [done, why = began.error()](const Result<json::value>&) { done(why); });
    });
  };
  // A node that an agent has left that ended in the middle of this.
  execute("blockdev-del", {{"node-name", kCopy}},
          [this, target, begin](const Result<json::value>&) {
            execute("blockdev-add", target, begin);
          });
}

void StorageDaemon::forget_copy(const std::string& job, Callback<void> done) {
  execute("job-dismiss", {{"id", job}}, [this, done](const Result<json::value>& dismissed) {
    if (!dismissed) return done(without_value(dismissed));
    execute("blockdev-del", {{"node-name", kCopy}}, [done](const Result<json::value>& removed) {
      done(without_value(removed));
    });
  });
}

void StorageDaemon::end_copy(const VolumeCopy& copy, Callback<void> done) {
  cancel_copy(job_of(copy), loop_.now() + options_.obey_within, std::move(done));
}

void StorageDaemon::cancel_copy(const std::string& job, Instant until, Callback<void> done) {
  find_copy([this, job, until, done](const Result<Job>& found) {
    if (!found) return done(found.error());
    if (found->id != job) return done({});
    if (found->concluded) return forget_copy(job, done);
    if (loop_.now() >= until) return done(make_error(Errc::timeout, "a copy does not end"));
    // Repeated, it is refused or does nothing; the list tells.
    execute("job-cancel", {{"id", job}},
            [this, job, until, done](const Result<json::value>& cancelled) {
              if (!cancelled && cancelled.error().code != Errc::internal) {
                return done(without_value(cancelled));
              }
              loop_.after(milliseconds(10), [this, job, until, done,
                                             alive = std::weak_ptr(alive_)] {
                if (!alive.expired()) cancel_copy(job, until, done);
              });
            });
  });
}

void StorageDaemon::kill() {
  if (process_ != nullptr) process_->signal(SIGKILL);
}

}  // namespace virga
