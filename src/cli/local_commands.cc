#include <fmt/format.h>

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "base/reflect.h"
#include "cli/client.h"
#include "cli/handlers.h"
#include "cli/output.h"
#include "edge/file.h"
#include "image/image_build.h"
#include "runtime/journal_audit.h"
#include "store/backup.h"

/// Commands that work on this machine's files, without the server.
namespace virga::cli {
namespace {

constexpr const char* kJournalDefault = "/var/lib/virga/server/journal.db";

/// The folder of this program's file, where its companions lie.
std::string program_folder() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? std::string("/usr/bin") : self.parent_path().string();
}

Result<std::uint64_t> incarnation_of(const std::string& field, const std::string& text) {
  std::uint64_t incarnation = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), incarnation);
  if (code == std::errc() && end == text.data() + text.size()) return incarnation;
  return make_error(Errc::invalid, field + ": \"" + text +
                                       "\" is no number; the highest incarnation that hosts have "
                                       "seen is in `incarnation` of their agents' data folders");
}

/// What was restored to this file before counts as well: hosts follow nothing older.
Result<BackupInfo> restore_above_all(const std::string& from, const std::string& to,
                                     const std::string& said) {
  const std::string note = to + ".incarnation";
  const auto text = read_file(note, 64);
  if (!text && text.error().code != Errc::not_found) return text.error();
  const auto last = incarnation_of(note, text ? *text : "0");
  if (!last) return last.error();
  const auto above = incarnation_of("--above", said);
  if (!above) return above.error();
  auto info = restore_backup(from, to, std::max(*above, *last));
  if (!info) return info;
  const auto noted = write_file_atomically(note, std::to_string(info->incarnation), 0600);
  return noted ? info : wrap_error("restored, but the next restore needs --above", noted.error());
}

}  // namespace

int write_backup(Session& session, const Invocation& invocation) {
  json::object body;
  if (invocation.has("name")) body["name"] = invocation.text("name");
  const auto answer = request(session, "POST", "/v1/backup", json::value(std::move(body)));
  if (!answer.ok()) return fail(session, answer.error());
  print_value(session, answer->body);
  return 0;
}

int restore_backup_file(Session& session, const Invocation& invocation) {
  const std::string from = invocation.text("name");
  const std::string to = invocation.text("to");
  const bool verify = invocation.has("verify") || session.dry_run;
  if (!verify && to.empty()) {
    return fail(session,
                make_error(Errc::invalid,
                           "--to: name the new store's file, or give --verify to check only"));
  }
  const auto info =
      verify ? verify_backup(from) : restore_above_all(from, to, invocation.text("above", "0"));
  if (!info.ok()) return fail(session, info.error());
  print_value(session, json::object{{"schema", info->schema},
                                    {"revision", info->revision},
                                    {"incarnation", info->incarnation},
                                    {"keys", info->keys},
                                    {"bytes", info->bytes.value}});
  session.err(
      verify ? "the backup is sound\n"
             : "restored; high availability waits until every host has reported or you arm it\n");
  return 0;
}

int verify_audit(Session& session, const Invocation& invocation) {
  std::optional<JournalPoint> known;
  if (invocation.has("noted")) {
    auto point = parse_journal_point(invocation.text("noted"));
    if (!point.ok()) return fail(session, wrap_error("--noted", point.error()));
    known = std::move(*point);
  }
  const auto audit = audit_journal(invocation.text("name", kJournalDefault), known);
  if (!audit.ok() && audit.error().code == Errc::conflict) {
    session.err("virga: " + audit.error().text() + "\n");
    return exit_code(Errc::conflict);
  }
  if (!audit.ok()) return fail(session, audit.error());
  print_value(session, to_json(*audit));
  session.err(fmt::format("all entries are as they were written; note {}:{} elsewhere\n",
                          audit->head.sequence, audit->head.hash));
  return 0;
}

int build_image(Session& session, const Invocation& invocation) {
  if (invocation.text("name") != "tiny") {
    return fail(session, make_error(Errc::invalid, "\"" + invocation.text("name") +
                                                       "\" is not known; right is tiny"));
  }
  TinyImageOptions options;
  options.output_folder = invocation.text("output");
  options.guest_program_path = invocation.text("guest", program_folder() + "/virga-guest");
  options.package_folder = invocation.text("packages", "/var/cache/virga/packages");
  options.progress = [&](const std::string& step) { session.err(step + "\n"); };
  const auto manifest = build_tiny_image(options);
  if (!manifest.ok()) return fail(session, manifest.error());
  print_value(session, to_json(*manifest));
  session.err("next: virga image create tiny --folder " + options.output_folder +
              ", when it lies in the shared directory\n");
  return 0;
}

int run_simulator(Session& session, const Invocation& invocation) {
  const std::string program = program_folder() + "/virgad";
  std::vector<std::string> words{program, "sim"};
  for (const std::string& word : invocation.all("arguments")) words.push_back(word);
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  ::execv(program.c_str(), pointers.data());
  return fail(session,
              make_error(Errc::not_found, "run " + program + " sim: the program is not there"));
}

}  // namespace virga::cli
