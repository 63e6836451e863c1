#include <fmt/format.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/reflect.h"
#include "cli/client.h"
#include "cli/handlers.h"
#include "cli/output.h"
#include "image/image_build.h"
#include "image/image_import.h"
#include "model/cluster.h"
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

void print_value(Session& session, const json::value& value) {
  session.out(session.format == Format::json ? pretty_json(value) : yaml_text(value));
}

/// What the cluster takes whose images lie in that folder; where none has it, the most of all.
Result<Mib> image_limit(Session& session, const std::string& images_folder) {
  const auto clusters = list_all(session, "/v1/clusters");
  if (!clusters.ok()) return clusters.error();
  std::error_code ignored;
  const auto place = std::filesystem::weakly_canonical(images_folder, ignored);
  Mib most;
  for (const json::value& item : clusters->items) {
    const auto cluster = from_json<Cluster>(item, UnknownFields::ignore);
    if (!cluster.ok()) return cluster.error();
    const Mib limit = cluster->spec.policy.image_mib_max;
    if (place == cluster->spec.shared_directory + "/images") return limit;
    most = std::max(most, limit);
  }
  return clusters->items.empty() ? ClusterPolicy().image_mib_max : most;
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
  const auto info = verify ? verify_backup(from) : restore_backup(from, to);
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
  session.err(
      "next: virga image create tiny --folder " + options.output_folder +
      ", when it lies in the shared directory\n");
  return 0;
}

int import_image_file(Session& session, const Invocation& invocation) {
  ImageImportOptions options;
  options.source_path = invocation.text("name");
  options.images_folder = invocation.text("images-folder");
  options.name = invocation.text("as");
  options.sha256 = invocation.text("sha256");
  const auto limit = image_limit(session, options.images_folder);
  if (!limit.ok()) return fail(session, limit.error());
  options.size_mib_max = *limit;
  if (invocation.has("size-mib-max")) {
    const auto size = parse_json(invocation.text("size-mib-max"));
    if (!size.ok() || !size->is_int64() || size->get_int64() < 1) {
      return fail(session,
                  make_error(Errc::invalid, "--size-mib-max: \"" + invocation.text("size-mib-max") +
                                                "\" is not a number of MiB"));
    }
    options.size_mib_max = std::min(*limit, Mib{size->get_int64()});
  }
  const auto manifest = import_image(options);
  if (!manifest.ok()) return fail(session, manifest.error());
  const ImageSpec spec = image_spec(*manifest, "images/" + options.name);
  const json::value body =
      json::object{{"meta", json::object{{"name", options.name}}}, {"spec", to_json(spec)}};
  session.err("imported; registering it with the server\n");
  const auto answer = request(session, "PUT", resource_target("images", options.name), body);
  return answer.ok() ? show_one(session, "images", answer->body) : fail(session, answer.error());
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
