#include "driver/rbd/ceph_admin.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/reflect.h"
#include "edge/process.h"

namespace virga {
namespace {

constexpr double kBlockedSeconds = 86400;  // a ticket of a user that is gone lasts an hour

struct Watcher {
  std::string address;
};
BOOST_DESCRIBE_STRUCT(Watcher, (), (address))

struct ImageStatus {
  std::vector<Watcher> watchers;
};
BOOST_DESCRIBE_STRUCT(ImageStatus, (), (watchers))

struct ImageLock {
  std::string id;
  std::string locker;
  std::string address;
};
BOOST_DESCRIBE_STRUCT(ImageLock, (), (id, locker, address))

struct ImageUsage {
  std::int64_t used_size = 0;
};
BOOST_DESCRIBE_STRUCT(ImageUsage, (), (used_size))

struct UsageList {
  std::vector<ImageUsage> images;
};
BOOST_DESCRIBE_STRUCT(UsageList, (), (images))

struct UserEntry {
  std::string entity;
};
BOOST_DESCRIBE_STRUCT(UserEntry, (), (entity))

struct UserList {
  std::vector<UserEntry> auth_dump;
};
BOOST_DESCRIBE_STRUCT(UserList, (), (auth_dump))

struct MonitorEntry {
  std::string name;
};
BOOST_DESCRIBE_STRUCT(MonitorEntry, (), (name))

struct MonitorList {
  std::vector<MonitorEntry> mons;
};
BOOST_DESCRIBE_STRUCT(MonitorList, (), (mons))

struct SessionAddress {
  std::string addr;
  std::int64_t nonce = 0;
};
BOOST_DESCRIBE_STRUCT(SessionAddress, (), (addr, nonce))

struct SessionAddresses {
  std::vector<SessionAddress> addrvec;
};
BOOST_DESCRIBE_STRUCT(SessionAddresses, (), (addrvec))

struct MonitorSession {
  std::string entity_name;
  SessionAddresses addrs;
};
BOOST_DESCRIBE_STRUCT(MonitorSession, (), (entity_name, addrs))

template <typename T>
Result<T> parsed(const Result<std::string>& said) {
  if (!said) return said.error();
  return from_json_text<T>(*said, UnknownFields::ignore);
}

bool is_not_there(const Error& error) {
  return error.what.find("(2) No such file") != std::string::npos ||
         error.what.find("does not exist") != std::string::npos;
}

}  // namespace

CephAdmin::CephAdmin(const AsioLoop& clock, const RbdOptions& options, Instant until)
    : clock_(clock), options_(options), until_(until) {}

Result<std::string> CephAdmin::say(const std::vector<std::string>& words) {
  ProcessOptions made;
  made.arguments = {options_.rbd, "--conf", options_.configuration, "--name", options_.client};
  made.arguments.insert(made.arguments.end(), words.begin(), words.end());
  made.environment = {{"LC_ALL", "C"}, {"PATH", "/usr/bin:/bin"}};
  std::string what = "rbd";
  for (const std::string& word : words) what += " " + word;
  const Duration left = until_ - clock_.now();
  if (left <= Duration(0)) return make_error(Errc::timeout, what + ": no time is left for it");
  auto output = run_process(made, left);
  if (!output) return wrap_error(what, output.error());
  if (output->exit.code == 0) return std::move(output->out);
  std::string said = output->err.substr(0, 400);
  std::replace(said.begin(), said.end(), '\n', ' ');
  return make_error(Errc::unavailable, what + ": " + said);
}

Result<void> CephAdmin::tell(const std::vector<std::string>& words) {
  const auto said = say(words);
  return said ? Result<void>() : Result<void>(said.error());
}

Result<std::string> CephAdmin::ask_monitors(const boost::json::object& command,
                                            const std::string& input, const std::string& monitor) {
  const Duration left = until_ - clock_.now();
  if (left <= Duration(0)) return make_error(Errc::timeout, "no time is left to ask Ceph");
  if (link_ == nullptr) {
    auto opened = MonitorLink::open(options_.configuration, options_.client, left);
    if (!opened) return opened.error();
    link_ = std::move(*opened);
  }
  return link_->say(command, input, monitor);
}

std::string CephAdmin::path_of(const CephImage& image) const {
  return fmt::format("{}/{}/{}", options_.pool, image.space, image.name);
}

Result<void> CephAdmin::make(const CephImage& image, Mib size_mib) {
  if (auto removed = remove(image); !removed) return removed;
  const std::string space = options_.pool + "/" + image.space;
  if (auto made = tell({"namespace", "create", space}); !made) return made;
  return tell({"create", "--size", fmt::format("{}M", size_mib.value), path_of(image)});
}

Result<void> CephAdmin::grow(const CephImage& image, Mib size_mib) {
  return tell(
      {"resize", "--no-progress", "--size", fmt::format("{}M", size_mib.value), path_of(image)});
}

Result<void> CephAdmin::remove(const CephImage& image) {
  const std::string space = options_.pool + "/" + image.space;
  auto removed = tell({"rm", "--no-progress", path_of(image)});
  if (!removed && !is_not_there(removed.error())) return removed;
  removed = tell({"namespace", "rm", space});
  return removed.ok() || is_not_there(removed.error()) ? Result<void>() : removed;
}

Result<Bytes> CephAdmin::used(const CephImage& image) {
  const auto usage = parsed<UsageList>(say({"du", "--format", "json", path_of(image)}));
  if (!usage) return usage.error();
  Bytes used;
  for (const ImageUsage& one : usage->images) used.value += one.used_size;
  return used;
}

Result<std::set<std::string>> CephAdmin::users(const CephImage& image) {
  const auto all = parsed<UserList>(ask_monitors({{"prefix", "auth ls"}, {"format", "json"}}));
  if (!all) return all.error();
  std::set<std::string> found;
  for (const UserEntry& one : all->auth_dump) {
    if (one.entity.rfind(image.user_prefix(), 0) == 0) found.insert(one.entity);
  }
  return found;
}

/// Without the profile's right to put others on the blocklist: that is the store's alone.
Result<void> CephAdmin::add_user(const CephImage& image, const std::string& user,
                                 const std::string& key) {
  const std::string keyring = fmt::format(
      "[{}]\n\tkey = {}\n\tcaps mon = \"allow r\"\n"
      "\tcaps osd = \"profile rbd pool={} namespace={}\"\n",
      user, key, options_.pool, image.space);
  const auto added = ask_monitors({{"prefix", "auth import"}}, keyring);
  return added ? Result<void>() : Result<void>(added.error());
}

Result<void> CephAdmin::remove_user(const std::string& user) {
  const auto removed = ask_monitors({{"prefix", "auth rm"}, {"entity", user}});
  return removed ? Result<void>() : Result<void>(removed.error());
}

Result<std::vector<CephAdmin::Client>> CephAdmin::clients(const CephImage& image) {
  const auto locks =
      parsed<std::vector<ImageLock>>(say({"lock", "ls", "--format", "json", path_of(image)}));
  if (!locks) return locks.error();
  const auto status = parsed<ImageStatus>(say({"status", "--format", "json", path_of(image)}));
  if (!status) return status.error();
  std::vector<Client> found;
  for (const ImageLock& one : *locks) found.push_back({one.address, one.id, one.locker});
  for (const Watcher& one : status->watchers) {
    const bool known = std::any_of(found.begin(), found.end(), [&](const Client& other) {
      return other.address == one.address;
    });
    if (!known) found.push_back({one.address, "", ""});
  }
  return found;
}

Result<std::map<std::string, std::string>> CephAdmin::sessions() {
  const auto all = parsed<MonitorList>(ask_monitors({{"prefix", "mon dump"}, {"format", "json"}}));
  if (!all) return all.error();
  std::map<std::string, std::string> users;
  for (const MonitorEntry& monitor : all->mons) {
    const auto seen = parsed<std::vector<MonitorSession>>(
        ask_monitors({{"prefix", "sessions"}, {"format", "json"}}, "", monitor.name));
    if (!seen) return seen.error();
    for (const MonitorSession& one : *seen) {
      for (const SessionAddress& at : one.addrs.addrvec) {
        users[fmt::format("{}/{}", at.addr, at.nonce)] = one.entity_name;
      }
    }
  }
  return users;
}

Result<CephCut> CephAdmin::cut(const CephImage& image, const std::set<std::string>& spared) {
  auto open = clients(image);
  if (!open) return open.error();
  const auto users = sessions();
  if (!users) return users.error();
  for (const auto& [address, user] : *users) {
    const bool listed =
        std::any_of(open->begin(), open->end(),
                    [&, at = address](const Client& one) { return one.address == at; });
    if (!listed && user.rfind(image.user_prefix(), 0) == 0) open->push_back({address, "", ""});
  }
  CephCut ended;
  for (const Client& one : *open) {
    const auto user = users->find(one.address);
    if (user != users->end() && spared.contains(user->second)) continue;
    const auto cut = ask_monitors({{"prefix", "osd blocklist"},
                                   {"blocklistop", "add"},
                                   {"addr", one.address},
                                   {"expire", kBlockedSeconds}});
    if (!cut) return cut.error();
    if (user != users->end()) ended.users.insert(user->second);
    ended.unknown = ended.unknown || user == users->end();
    if (one.lock.empty()) continue;
    auto broken = tell({"lock", "rm", path_of(image), one.lock, one.locker});
    if (!broken && !is_not_there(broken.error())) return broken.error();
  }
  return ended;
}

}  // namespace virga
