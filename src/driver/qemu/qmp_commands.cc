#include "driver/qemu/qmp_commands.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/reflect.h"

namespace virga::qmp {
namespace {

constexpr Duration kDeadline = seconds(5);
constexpr int kThrottlePercent = 20;  // at a time

QmpClient::Answer only_outcome(Callback<void> done) {
  return [done = std::move(done)](Result<json::value> answer) {
    done(answer ? Result<void>() : Result<void>(answer.error()));
  };
}

void simple(QmpClient& client, const char* command, json::object arguments, Callback<void> done) {
  client.execute(command, std::move(arguments), kDeadline, only_outcome(std::move(done)));
}

std::string text_at(const json::value& value, const char* name) {
  const json::object* object = value.if_object();
  const json::value* member = object != nullptr ? object->if_contains(name) : nullptr;
  if (member == nullptr || !member->is_string()) return {};
  return std::string(member->get_string());
}

std::int64_t number_at(const json::value& value, const char* name) {
  const json::object* object = value.if_object();
  const json::value* member = object != nullptr ? object->if_contains(name) : nullptr;
  if (member == nullptr) return 0;
  if (member->is_int64()) return member->get_int64();
  return member->is_double() ? static_cast<std::int64_t>(member->get_double()) : 0;
}

json::array list_in(const json::value& answer) {
  const json::array* list = answer.if_array();
  return list != nullptr ? *list : json::array();
}

/// What the disk of a device uses; nothing when this entry of query-block is of another one.
std::optional<DiskNode> node_of(const json::value& disk, const std::string& device) {
  const json::object* members = disk.if_object();
  const json::value* used = members == nullptr ? nullptr : members->if_contains("inserted");
  if (used == nullptr || text_at(disk, "qdev").find("/" + device + "/") == std::string::npos) {
    return std::nullopt;
  }
  const json::object* node = used->if_object();
  const json::value* image = node == nullptr ? nullptr : node->if_contains("image");
  return DiskNode{text_at(*used, "node-name"),
                  Bytes{image == nullptr ? 0 : number_at(*image, "virtual-size")}};
}

void take_job(const json::value& job, MirrorState& state) {
  const std::string status = text_at(job, "status");
  state.there = true;
  state.ready = status == "ready";
  state.concluded = status == "concluded";
  state.error = text_at(job, "error");
  state.copied = Bytes{number_at(job, "current-progress")};
  state.total = Bytes{number_at(job, "total-progress")};
}

RunState run_state(const std::string& status) {
  if (status == "prelaunch") return RunState::prelaunch;
  if (status == "running") return RunState::running;
  if (status == "shutdown") return RunState::shut_down;
  if (status == "io-error") return RunState::io_error;
  if (status == "guest-panicked") return RunState::panicked;
  if (status == "watchdog") return RunState::watchdog;
  if (status == "inmigrate") return RunState::incoming;
  if (status == "finish-migrate") return RunState::finish_migrate;
  if (status == "postmigrate") return RunState::postmigrate;
  return RunState::paused;
}

MigrationInfo migration_info(const json::value& answer) {
  MigrationInfo info;
  info.state = migration_state(text_at(answer, "status"));
  info.error = text_at(answer, "error-desc");
  info.throttle_percent = static_cast<int>(number_at(answer, "cpu-throttle-percentage"));
  const json::object* object = answer.if_object();
  if (const json::value* ram = object != nullptr ? object->if_contains("ram") : nullptr) {
    info.transferred = Bytes{number_at(*ram, "transferred")};
    info.remaining = Bytes{number_at(*ram, "remaining")};
    info.passes = static_cast<int>(number_at(*ram, "dirty-sync-count"));
  }
  return info;
}

void hand_over(QmpClient& client, int socket, std::string command, Callback<void> done) {
  client.execute_with("getfd", {{"fdname", "migration"}}, socket,
                      [&client, command = std::move(command),
                       done = std::move(done)](Result<json::value> answer) mutable {
                        if (!answer) return done(answer.error());
                        simple(client, command.c_str(), {{"uri", "fd:migration"}}, std::move(done));
                      });
}

/// Makes the object `id` with the key of `user` in `folder`, which QEMU has no longer than that.
void add_keys(QmpClient& client, const std::string& id, const std::string& user, int folder,
              const Callback<void>& done) {
  client.execute_with("add-fd", {}, folder,
                      [&client, id, user, done](const Result<json::value>& answer) {
                        if (!answer) return done(answer.error());
                        const std::int64_t set = number_at(*answer, "fdset-id");
                        const std::string directory =
                            "/proc/self/fd/" + std::to_string(number_at(*answer, "fd"));
                        simple(client, "object-add", keys_object(id, directory, user),
                               [&client, set, done](const Result<void>& made) {
                                 simple(client, "remove-fd", {{"fdset-id", set}},
                                        [](const Result<void>&) {});
                                 done(made);
                               });
                      });
}

/// One that is not there is an error in QEMU's eyes only.
void drop_keys(QmpClient& client, const std::string& id, const Callback<void>& done) {
  simple(client, "object-del", {{"id", id}}, [done](const Result<void>&) { done({}); });
}

}  // namespace

MigrationState migration_state(std::string_view status) {
  if (status.empty() || status == "none") return MigrationState::none;
  if (status == "active" || status == "setup") return MigrationState::active;
  if (status == "pre-switchover") return MigrationState::pre_switchover;
  if (status == "completed") return MigrationState::completed;
  if (status == "failed") return MigrationState::failed;
  if (status == "cancelled") return MigrationState::cancelled;
  if (status == "cancelling") return MigrationState::cancelling;
  return MigrationState::other;
}

bool under_way(MigrationState state) {
  return state == MigrationState::active || state == MigrationState::pre_switchover ||
         state == MigrationState::cancelling || state == MigrationState::other;
}

void query_status(QmpClient& client, Callback<RunState> done) {
  client.execute("query-status", {}, kDeadline,
                 [done = std::move(done)](Result<json::value> answer) {
                   if (!answer) return done(answer.error());
                   done(run_state(text_at(*answer, "status")));
                 });
}

void resume(QmpClient& client, Callback<void> done) { simple(client, "cont", {}, std::move(done)); }

void power_down(QmpClient& client, Callback<void> done) {
  simple(client, "system_powerdown", {}, std::move(done));
}

void quit(QmpClient& client, Callback<void> done) { simple(client, "quit", {}, std::move(done)); }

void announce_self(QmpClient& client, Callback<void> done) {
  simple(client, "announce-self", {{"initial", 20}, {"max", 100}, {"rounds", 6}, {"step", 30}},
         std::move(done));
}

void prepare_migration(QmpClient& client, const MigrationParameters& parameters,
                       Callback<void> done) {
  json::array capabilities;
  for (const char* name :
       {"events", "return-path", "pause-before-switchover", "late-block-activate"}) {
    capabilities.push_back(json::object{{"capability", name}, {"state", true}});
  }
  const bool throttle = parameters.throttle_percent_max > 0;
  const int throttle_max = std::max(parameters.throttle_percent_max, kThrottlePercent);
  capabilities.push_back(json::object{{"capability", "auto-converge"}, {"state", throttle}});
  json::object limits{{"max-bandwidth", parameters.bytes_per_second_max},
                      {"downtime-limit", to_ms(parameters.downtime_max)},
                      {"cpu-throttle-initial", kThrottlePercent},
                      {"cpu-throttle-increment", kThrottlePercent},
                      {"max-cpu-throttle", throttle_max},
                      {"announce-initial", 20},
                      {"announce-max", 100},
                      {"announce-rounds", 6},
                      {"announce-step", 30},
                      // What an agent of before had encrypted by QEMU is so no more.
                      {"tls-creds", ""},
                      {"tls-hostname", ""}};
  client.execute("migrate-set-capabilities", {{"capabilities", std::move(capabilities)}}, kDeadline,
                 [&client, limits = std::move(limits),
                  done = std::move(done)](Result<json::value> answer) mutable {
                   if (!answer) return done(answer.error());
                   simple(client, "migrate-set-parameters", std::move(limits), std::move(done));
                 });
}

void send_through(QmpClient& client, int socket, Callback<void> done) {
  hand_over(client, socket, "migrate", std::move(done));
}

void receive_through(QmpClient& client, int socket, Callback<void> done) {
  hand_over(client, socket, "migrate-incoming", std::move(done));
}

void query_migration(QmpClient& client, Callback<MigrationInfo> done) {
  client.execute("query-migrate", {}, kDeadline,
                 [done = std::move(done)](Result<json::value> answer) {
                   if (!answer) return done(answer.error());
                   done(migration_info(*answer));
                 });
}

void pass_switchover(QmpClient& client, Callback<void> done) {
  simple(client, "migrate-continue", {{"state", "pre-switchover"}}, std::move(done));
}

void cancel_migration(QmpClient& client, Callback<void> done) {
  simple(client, "migrate_cancel", {}, std::move(done));
}

void free_cancelled(QmpClient& client, Callback<void> done) {
  simple(client, "migrate-continue", {{"state", "cancelling"}}, std::move(done));
}

void yank_migration(QmpClient& client, Callback<void> done) {
  client.execute_oob("yank", {{"instances", json::array{json::object{{"type", "migration"}}}}},
                     kDeadline, only_outcome(std::move(done)));
}

void pause(QmpClient& client, Callback<void> done) { simple(client, "stop", {}, std::move(done)); }

void query_disk(QmpClient& client, const std::string& device, Callback<DiskNode> done) {
  client.execute("query-block", {}, kDeadline,
                 [device, done = std::move(done)](const Result<json::value>& answer) {
                   if (!answer) return done(answer.error());
                   for (const json::value& disk : list_in(*answer)) {
                     if (auto node = node_of(disk, device)) return done(*node);
                   }
                   done(make_error(Errc::not_found, "QEMU has no disk " + device));
                 });
}

void grow_node(QmpClient& client, const std::string& node, Bytes size, Callback<void> done) {
  simple(client, "block_resize", {{"node-name", node}, {"size", size.value}}, std::move(done));
}

void query_mirror(QmpClient& client, const std::string& device, const std::string& job,
                  Callback<MirrorState> done) {
  const auto jobs = [&client, job, done = std::move(done)](const Result<DiskNode>& disk) {
    if (!disk) return done(disk.error());
    client.execute("query-jobs", {}, kDeadline,
                   [state = MirrorState{disk->name, false, false, false, {}, {}, {}}, job,
                    done](const Result<json::value>& answer) mutable {
                     if (!answer) return done(answer.error());
                     for (const json::value& one : list_in(*answer)) {
                       if (text_at(one, "id") == job) take_job(one, state);
                     }
                     done(state);
                   });
  };
  query_disk(client, device, jobs);
}

void begin_mirror(QmpClient& client, const MirrorJob& job, Callback<void> done) {
  simple(client, "blockdev-mirror",
         {{"job-id", job.name},
          {"device", job.from},
          {"target", job.to},
          {"filter-node-name", job.from + "-mirror"},  // so that errors are known to be this disk's
          {"sync", "full"},
          {"copy-mode", "background"},
          {"speed", job.bytes_per_second_max},
          {"auto-dismiss", false},
          {"on-source-error", "report"},
          {"on-target-error", "report"}},
         std::move(done));
}

void complete_job(QmpClient& client, const std::string& job, Callback<void> done) {
  simple(client, "job-complete", {{"id", job}}, std::move(done));
}

void end_mirror(QmpClient& client, const std::string& job, Callback<void> done) {
  simple(client, "block-job-cancel", {{"device", job}, {"force", false}}, std::move(done));
}

void cancel_job(QmpClient& client, const std::string& job, Callback<void> done) {
  simple(client, "job-cancel", {{"id", job}}, std::move(done));
}

void dismiss_job(QmpClient& client, const std::string& job, Callback<void> done) {
  simple(client, "job-dismiss", {{"id", job}}, std::move(done));
}

void add_volume(QmpClient& client, const std::string& node, const NbdDisk& volume, int keys,
                Callback<void> done) {
  const auto connect = [&client, node, volume, done = std::move(done)](const Result<void>& made) {
    if (!made) return done(made);
    json::object wanted = volume_node(node, volume);
    wanted["open-timeout"] = 4;
    simple(client, "blockdev-add", std::move(wanted), done);
  };
  add_keys(client, keys_of(node), volume.user, keys, connect);
}

void add_empty(QmpClient& client, const std::string& node, Bytes size, Callback<void> done) {
  json::object below{{"driver", "null-co"}, {"size", size.value}};
  json::object always{{"event", "none"}, {"errno", 5}};
  simple(client, "blockdev-add",
         {{"driver", "blkdebug"},
          {"node-name", node},
          {"image", std::move(below)},
          {"inject-error", json::array{std::move(always)}}},
         std::move(done));
}

void add_quorum(QmpClient& client, const std::string& node, const std::vector<std::string>& below,
                Callback<void> done) {
  simple(client, "blockdev-add", quorum_node(node, below), std::move(done));
}

void remove_volume(QmpClient& client, const std::string& node, Callback<void> done) {
  client.execute("query-named-block-nodes", {{"flat", true}}, kDeadline,
                 [&client, node, done = std::move(done)](const Result<json::value>& answer) {
                   if (!answer) return done(answer.error());
                   const auto drop = [&client, node, done](const Result<void>& removed) {
                     if (!removed) return done(removed);
                     drop_keys(client, keys_of(node), done);
                   };
                   const json::array nodes = list_in(*answer);
                   const bool there = std::ranges::any_of(nodes, [&](const json::value& one) {
                     return text_at(one, "node-name") == node;
                   });
                   if (!there) return drop({});
                   simple(client, "blockdev-del", {{"node-name", node}}, drop);
                 });
}

void use_node(QmpClient& client, const std::string& device, const std::string& node,
              Callback<void> done) {
  simple(client, "qom-set",
         {{"path", "/machine/peripheral/" + device}, {"property", "drive"}, {"value", node}},
         std::move(done));
}

void yank_volume(QmpClient& client, const std::string& node, Callback<void> done) {
  client.execute_oob(
      "yank",
      {{"instances", json::array{json::object{{"type", "block-node"}, {"node-name", node}}}}},
      kDeadline, only_outcome(std::move(done)));
}

void query_disk_full(QmpClient& client, Callback<bool> done) {
  client.execute("query-block", {}, kDeadline,
                 [done = std::move(done)](Result<json::value> answer) {
                   if (!answer) return done(answer.error());
                   const json::array* list = answer->if_array();
                   bool full = false;
                   for (std::size_t index = 0; list != nullptr && index < list->size(); ++index) {
                     full = full || text_at((*list)[index], "io-status") == "nospace";
                   }
                   done(full);
                 });
}

void query_disk_traffic(QmpClient& client, Callback<VmUsage> done) {
  client.execute(
      "query-blockstats", {}, kDeadline, [done = std::move(done)](Result<json::value> answer) {
        if (!answer) return done(answer.error());
        VmUsage sum;
        sum.disk_read_bytes = sum.disk_written_bytes = 0;
        sum.disk_reads = sum.disk_writes = 0;
        const json::array* list = answer->if_array();
        for (std::size_t index = 0; list != nullptr && index < list->size(); ++index) {
          const json::object* disk = (*list)[index].if_object();
          const json::value* stats = disk == nullptr ? nullptr : disk->if_contains("stats");
          if (stats == nullptr) continue;
          sum.disk_read_bytes += number_at(*stats, "rd_bytes");
          sum.disk_written_bytes += number_at(*stats, "wr_bytes");
          sum.disk_reads += number_at(*stats, "rd_operations");
          sum.disk_writes += number_at(*stats, "wr_operations");
        }
        done(sum);
      });
}

void query_port_open(QmpClient& client, const std::string& chardev, Callback<bool> done) {
  client.execute("query-chardev", {}, kDeadline,
                 [chardev, done = std::move(done)](Result<json::value> answer) {
                   if (!answer) return done(answer.error());
                   const json::array* list = answer->if_array();
                   for (std::size_t index = 0; list != nullptr && index < list->size(); ++index) {
                     const json::value& entry = (*list)[index];
                     if (text_at(entry, "label") != chardev) continue;
                     const json::object* object = entry.if_object();
                     const json::value* open = object->if_contains("frontend-open");
                     return done(open != nullptr && open->is_bool() && open->get_bool());
                   }
                   done(make_error(Errc::not_found, "QEMU has no chardev " + chardev));
                 });
}

}  // namespace virga::qmp
