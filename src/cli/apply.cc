#include <fmt/format.h>

#include <unistd.h>

#include "cli/client.h"
#include "cli/handlers.h"
#include "cli/manifest.h"
#include "cli/output.h"
#include "cli/wait.h"
#include "edge/file.h"

namespace virga::cli {
namespace json = boost::json;
namespace {

constexpr std::size_t kManifestMax = 4 << 20;

Result<std::string> read_standard_input() {
  std::string text;
  char buffer[64 << 10];
  while (text.size() <= kManifestMax) {
    const ssize_t count = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (count == 0) return text;
    if (count < 0) return make_error(Errc::internal, "read standard input: failed");
    text.append(buffer, static_cast<std::size_t>(count));
  }
  return make_error(Errc::invalid, "standard input: more than 4 MiB");
}

/// What became of one entry, for people.
std::string word_for(const Session& session, const Answer& answer) {
  if (answer.unchanged) return "unchanged";
  if (session.dry_run) return "would change";
  return answer.status == 201 ? "created" : answer.status == 202 ? "accepted" : "changed";
}

}  // namespace

int apply_file(Session& session, const Invocation& invocation) {
  const std::string path = invocation.text("file");
  const auto text = path == "-" ? read_standard_input() : read_file(path, kManifestMax);
  if (!text.ok()) return fail(session, text.error());
  const auto entries = read_manifest(*text);
  if (!entries.ok()) return fail(session, wrap_error(path, entries.error()));
  int worst = 0;
  std::vector<std::string> changed_vms;
  json::array outcomes;
  for (const ManifestEntry& entry : *entries) {
    const auto answer = request(session, "PUT", resource_target(entry.plural, entry.name),
                                boost::json::value(entry.body));
    if (!answer.ok()) {
      const int code = fail(session, wrap_error(entry.kind + " " + entry.name, answer.error()));
      if (worst == 0) worst = code;
      outcomes.push_back(json::object{{"kind", entry.kind},
                                      {"name", entry.name},
                                      {"outcome", "failed"},
                                      {"error", answer.error().text()}});
      continue;
    }
    const std::string word = word_for(session, *answer);
    outcomes.push_back(json::object{{"kind", entry.kind}, {"name", entry.name}, {"outcome", word}});
    if (!is_structured(session))
      session.out(fmt::format("{} {} {}\n", entry.kind, entry.name, word));
    if (entry.kind == "vm") warn_unplaced(session, answer->body);
    if (entry.kind == "vm" && !answer->unchanged) changed_vms.push_back(entry.name);
  }
  if (is_structured(session)) print_value(session, outcomes);
  if (!session.wait || session.dry_run) return worst;
  for (const std::string& name : changed_vms) {
    const auto settled = wait_for_vm(session, name, Goal::settled);
    if (!settled.ok()) {
      const int code = fail(session, settled.error());
      if (worst == 0) worst = code;
    }
  }
  return worst;
}

}  // namespace virga::cli
