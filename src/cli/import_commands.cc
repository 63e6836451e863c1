#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "cli/client.h"
#include "cli/foreign_vm.h"
#include "cli/handlers.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/wait.h"
#include "edge/file.h"
#include "image/disk_header.h"
#include "image/image_import.h"
#include "model/cluster.h"

/// What comes from elsewhere: disk images, and VMs of other systems.
namespace virga::cli {
namespace {

constexpr std::size_t kDomainMax = 2 << 20;
constexpr std::size_t kHeadBytes = 64 << 10;

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

/// Checks the disk, takes it over and registers it. Errors: of import_image, of the server.
Result<json::value> take_image(Session& session, const ImageImportOptions& options) {
  const auto manifest = import_image(options);
  if (!manifest.ok()) return manifest.error();
  const ImageSpec spec = image_spec(*manifest, "images/" + options.name);
  const json::value body =
      json::object{{"meta", json::object{{"name", options.name}}}, {"spec", to_json(spec)}};
  session.err("imported; registering it with the server\n");
  const auto answer = request(session, "PUT", resource_target("images", options.name), body);
  if (!answer.ok()) return answer.error();
  return answer->body;
}

/// What the VM is, by its description if there is one. Errors: invalid, what reading files gives.
Result<Domain> described(const Invocation& invocation) {
  Domain domain;
  domain.memory_mib = Mib{0};
  if (!invocation.has("domain")) return domain;
  const auto text = read_file(invocation.text("domain"), kDomainMax);
  if (!text.ok()) return wrap_error("--domain", text.error());
  return read_domain(*text);
}

/// "NAME" for all NICs, "SOURCE=NAME" for those of one network there.
Result<json::array> read_nics(const Invocation& invocation, const Domain& domain) {
  std::string any;
  std::map<std::string, std::string> named;
  for (const std::string& word : invocation.all("network")) {
    const auto equals = word.find('=');
    if (equals == std::string::npos) {
      any = word;
    } else {
      named[word.substr(0, equals)] = word.substr(equals + 1);
    }
  }
  std::vector<DomainNic> nics = domain.nics;
  if (!invocation.has("domain") && !any.empty()) nics.emplace_back();
  json::array made;
  for (const DomainNic& nic : nics) {
    const auto found = named.find(nic.source);
    const std::string network = found == named.end() ? any : found->second;
    if (network.empty()) {
      const std::string one = nic.source.empty() ? "" : nic.source + "=NAME, or ";
      return make_error(Errc::invalid, fmt::format("--network: nothing is said of \"{}\"; right "
                                                   "would be {}NAME for all",
                                                   nic.source, one));
    }
    made.push_back(json::object{{"network", network}});
  }
  return made;
}

/// Errors: invalid (what read_disk_header refuses), not_found.
Result<void> look_at_disk(const std::string& path) {
  std::error_code failed;
  const auto bytes = std::filesystem::file_size(path, failed);
  std::ifstream file(path, std::ios::binary);
  if (failed || !file) {
    return make_error(Errc::not_found, "disk " + path + ": there is no such file to read; " +
                                           "--disk names a copy of it on this machine");
  }
  std::string head(kHeadBytes, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<std::size_t>(file.gcount()));
  const auto header = read_disk_header(head, Bytes{static_cast<std::int64_t>(bytes)});
  return header.ok() ? Result<void>() : wrap_error("disk " + path, header.error());
}

/// Before anything is copied. Errors: conflict (a name is taken), not_found (a network).
Result<void> look_at_cloud(Session& session, const std::string& name, const std::string& image,
                           const json::array& nics) {
  const auto vm = request(session, "GET", resource_target("vms", name));
  if (vm.ok()) return make_error(Errc::conflict, "vm " + name + ": is there already");
  if (vm.error().code != Errc::not_found) return vm.error();
  if (request(session, "GET", resource_target("images", image)).ok()) {
    return make_error(Errc::conflict,
                      "image " + image + ": is there already; --as gives this one another name");
  }
  const std::string tenant = name.substr(0, name.find('/'));
  for (const json::value& nic : nics) {
    const auto network = request(
        session, "GET", resource_target("networks", tenant + "/" + text_at(nic, "network")));
    if (!network.ok()) return network.error();
  }
  return {};
}

void show_differences(Session& session, const Domain& domain) {
  for (const DomainDifference& one : domain.differences) {
    session.err(fmt::format("{} {}: {} -> {}\n", one.is_loss ? "LOST   " : "differs", one.what,
                            one.was, one.will_be));
  }
}

}  // namespace

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
  const auto image = take_image(session, options);
  return image.ok() ? show_one(session, "images", *image) : fail(session, image.error());
}

int import_vm(Session& session, const Invocation& invocation) {
  const std::string name = invocation.text("name");
  auto domain = described(invocation);
  if (!domain.ok()) return fail(session, domain.error());
  if (invocation.has("disk")) {  // nothing is lost of what is named here
    std::erase_if(domain->differences, [&](const DomainDifference& one) {
      return one.is_loss && one.what == domain->root;
    });
  }
  auto nics = read_nics(invocation, *domain);
  if (!nics.ok()) return fail(session, nics.error());
  const std::string disk = invocation.text("disk", domain->disk);
  if (disk.empty()) {
    return fail(session, make_error(Errc::invalid, "--disk: name the file of its first disk"));
  }
  if (auto sound = look_at_disk(disk); !sound.ok()) return fail(session, sound.error());
  const std::string image = invocation.text("as", name.substr(name.find('/') + 1));
  if (auto fits = look_at_cloud(session, name, image, *nics); !fits.ok())
    return fail(session, fits.error());

  json::object spec{{"cpus", domain->cpus}};
  if (domain->memory_mib.value > 0) spec["memory_mib"] = domain->memory_mib.value;
  for (const auto& [option, field] : {std::pair{"cpus", "cpus"}, {"memory-mib", "memory_mib"}}) {
    if (auto put = put_number(invocation, option, spec, field); !put.ok())
      return fail(session, put.error());
  }
  spec["image"] = image;
  spec["nics"] = std::move(*nics);
  put_text(invocation, "cluster", spec, "cluster");
  if (invocation.has("stopped")) spec["power"] = "stopped";

  show_differences(session, *domain);
  const bool loses = std::ranges::any_of(domain->differences, &DomainDifference::is_loss);
  if (session.dry_run) {
    const json::value plan = json::object{{"vm", json::object{{"name", name}, {"spec", spec}}},
                                          {"disk", disk},
                                          {"differences", to_json(domain->differences)}};
    print_value(session, plan);
    return 0;
  }
  if (loses && !invocation.has("accept-losses")) {
    return fail(session, make_error(Errc::conflict,
                                    "its guest may not work without what is LOST; --accept-losses "
                                    "imports it nevertheless"));
  }
  ImageImportOptions options;
  options.source_path = disk;
  options.images_folder = invocation.text("images-folder");
  options.name = image;
  options.sha256 = invocation.text("sha256");
  const auto limit = image_limit(session, options.images_folder);
  if (!limit.ok()) return fail(session, limit.error());
  options.size_mib_max = *limit;
  const auto taken = take_image(session, options);
  if (!taken.ok()) return fail(session, taken.error());
  const int code = create(session, invocation, "vms", spec);
  if (code != 0) {
    session.err("image " + image + " is there; `virga vm create " + name + " --image " + image +
                " ...` goes on from it\n");
  }
  return code;
}

}  // namespace virga::cli
