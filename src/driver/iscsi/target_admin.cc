#include "driver/iscsi/target_admin.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <sstream>
#include <thread>
#include <utility>

namespace virga {
namespace {

constexpr int kTriesMax = 200;  // a process each, 3 ms or more

}  // namespace

std::string consumer_of(const std::string& target) { return target + ".consumer"; }

TargetAdmin::TargetAdmin(std::string program, std::string control, Duration obey_within)
    : program_(std::move(program)), control_(std::move(control)), obey_within_(obey_within) {}

Result<std::string> TargetAdmin::say(std::vector<std::string> words) {
  ProcessOptions made;
  made.arguments = {program_, "-C", "0", "--lld", "iscsi", "--op"};
  std::string what;
  for (std::size_t index = 0; index < words.size(); ++index) {
    const bool secret = index > 0 && words[index - 1] == "--password";
    what += (secret ? "..." : words[index]) + " ";
    made.arguments.push_back(words[index]);
  }
  made.environment = {{"LC_ALL", "C"}, {"TGT_IPC_SOCKET", control_}};
  auto output = run_process(made, obey_within_);
  if (!output) return wrap_error("tgtadm " + what, output.error());
  if (output->exit.code == 0) return std::move(output->out);
  std::string said = output->err.substr(0, 200);
  std::replace(said.begin(), said.end(), '\n', ' ');
  return make_error(Errc::unavailable, "tgtadm " + what + "failed: " + said);
}

Result<void> TargetAdmin::tell(std::vector<std::string> words) {
  const auto said = say(std::move(words));
  return said ? Result<void>() : Result<void>(said.error());
}

Result<void> TargetAdmin::greet() { return tell({"show", "--mode", "target"}); }

/// "Target 3: NAME" begins each; headings are indented by four, what they hold by more.
Result<std::vector<TargetAdmin::Seen>> TargetAdmin::list() {
  const auto said = say({"show", "--mode", "target"});
  if (!said) return said.error();
  std::vector<Seen> targets;
  bool initiators = false;
  std::istringstream lines(*said);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(": ");
    if (line.rfind("Target ", 0) == 0 && colon != std::string::npos) {
      targets.push_back({std::atoi(line.c_str() + 7), line.substr(colon + 2), false, false, false});
      initiators = false;
    } else if (targets.empty()) {
      continue;
    } else if (line.find_first_not_of(' ') == 4) {
      initiators = line == "    ACL information:";
    } else {
      Seen& last = targets.back();
      last.has_unit = last.has_unit || line == "        LUN: 1";
      last.connected = last.connected || line.rfind("        I_T nexus: ", 0) == 0;
      last.lets_in = last.lets_in || initiators;
    }
  }
  return targets;
}

/// Who may come in is said last: a target that is not complete lets nobody in.
Result<void> TargetAdmin::make(int number, const Target& target) {
  const std::string id = std::to_string(number);
  const std::string user = consumer_of(target.name);
  const std::vector<std::string> steps[] = {
      {"new", "--mode", "target", "--tid", id, "--targetname", target.name},
      {"new", "--mode", "logicalunit", "--tid", id, "--lun", "1", "--backing-store", target.image,
       "--bstype", "rdwr"},
      {"update", "--mode", "logicalunit", "--tid", id, "--lun", "1", "--params",
       fmt::format("thin_provisioning=1,scsi_sn={0},scsi_id={0}", target.serial)},
      {"new", "--mode", "account", "--user", user, "--password", target.key},
      {"bind", "--mode", "account", "--tid", id, "--user", user},
      {"bind", "--mode", "target", "--tid", id, "--initiator-name", user}};
  for (const std::vector<std::string>& step : steps) {
    if (auto done = tell(step); !done) return done;
  }
  return {};
}

/// A unit with a request under way is not removed: when it is gone nothing of its consumers can
/// reach the image any more.
Result<void> TargetAdmin::end_unit(const std::string& number) {
  for (int tries = 0; tries < kTriesMax; ++tries) {
    const auto removed = tell({"delete", "--mode", "logicalunit", "--tid", number, "--lun", "1"});
    if (removed) return {};
    const std::string& why = removed.error().what;
    if (why.find("can't find the logical unit") != std::string::npos) return {};
    if (why.find("still active") == std::string::npos) return removed;
  }
  return make_error(Errc::timeout, "requests of a consumer of target " + number + " do not end");
}

Result<void> TargetAdmin::cut(const Seen& target) {
  const std::string id = std::to_string(target.number);
  const std::string user = consumer_of(target.name);
  if (target.lets_in) {
    auto out = tell({"unbind", "--mode", "target", "--tid", id, "--initiator-name", user});
    if (!out) return out;
  }
  if (target.has_unit) {
    if (auto ended = end_unit(id); !ended) return ended;
  }
  // Making the target may have ended before its account.
  const auto gone = tell({"delete", "--mode", "account", "--user", user});
  return gone.ok() || gone.error().code == Errc::unavailable ? Result<void>() : gone;
}

/// Of one without a LUN.
Result<void> TargetAdmin::remove(const Seen& target) {
  return tell({"delete", "--mode", "target", "--tid", std::to_string(target.number), "--force"});
}

Result<void> TargetAdmin::align(const std::string& prefix, const std::vector<Target>& wanted) {
  const auto seen = list();
  if (!seen) return seen.error();
  int last = 0;
  std::vector<std::string> right;
  for (const Seen& one : *seen) {
    last = std::max(last, one.number);
    const bool mine = one.name.rfind(prefix, 0) == 0;
    const bool known = mine && std::any_of(wanted.begin(), wanted.end(), [&](const Target& target) {
                         return target.name == one.name;
                       });
    if (known && one.lets_in) {
      right.push_back(one.name);
      continue;
    }
    if (mine && (one.lets_in || one.has_unit)) {
      if (auto ended = cut(one); !ended) return ended;
    }
    const bool shell = mine || (!one.lets_in && !one.has_unit);
    if (known || (shell && !one.connected)) {
      if (auto gone = remove(one); !gone) return gone;
    }
  }
  for (const Target& target : wanted) {
    if (std::find(right.begin(), right.end(), target.name) != right.end()) continue;
    if (auto made = make(++last, target); !made) return made;
  }
  return {};
}

}  // namespace virga
