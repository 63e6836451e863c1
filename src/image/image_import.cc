#include "image/image_import.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <filesystem>

#include "base/reflect.h"
#include "edge/file.h"
#include "edge/process.h"
#include "image/archive.h"
#include "image/digest.h"
#include "image/disk_header.h"
#include "image/disk_probe.h"
#include "image/publish.h"

namespace virga {
namespace {

constexpr std::size_t kHeadBytes = 64 * 1024;
constexpr std::size_t kBlockBytes = 1 << 20;
constexpr const char* kQemuImage = "/usr/bin/qemu-img";

struct Source {
  Descriptor file;
  Bytes size;
};

Result<Source> open_source(const ImageImportOptions& options) {
  // Without O_NONBLOCK a named pipe in the file's place would hold us for ever.
  Source source{Descriptor(::open(options.source_path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)),
                {}};
  if (!source.file.valid()) return errno_error("open " + options.source_path, errno);
  struct stat seen {};
  if (::fstat(source.file.get(), &seen) != 0)
    return errno_error("look at " + options.source_path, errno);
  if (!S_ISREG(seen.st_mode))
    return make_error(Errc::invalid, options.source_path + " is not a regular file");
  source.size = Bytes{seen.st_size};
  const Bytes limit = to_bytes(options.size_mib_max);
  if (source.size > limit) {
    return make_error(Errc::exhausted,
                      fmt::format("{} has {} bytes; at most {} are taken (image_mib_max)",
                                  options.source_path, source.size.value, limit.value));
  }
  return source;
}

Result<void> write_block(int to, std::string_view block) {
  // A block of zeroes becomes a hole: raw images are mostly empty.
  if (block.find_first_not_of('\0') == block.npos) {
    if (::lseek(to, static_cast<off_t>(block.size()), SEEK_CUR) < 0)
      return errno_error("seek in the copy", errno);
    return {};
  }
  while (!block.empty()) {
    const ssize_t count = ::write(to, block.data(), block.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno_error("write the copy", errno);
    block.remove_prefix(static_cast<std::size_t>(count));
  }
  return {};
}

struct Copy {
  std::string sha256;
  std::string head;  ///< the first 64 KiB
  Bytes size;
};

/// Copies exactly what the source holds now, never more than its first size (it may grow
/// meanwhile).
Result<Copy> copy_source(const Source& source, const std::string& to_path) {
  const Descriptor to(::open(to_path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!to.valid()) return errno_error("create " + to_path, errno);
  Copy copy;
  Digest digest;
  std::string block(kBlockBytes, '\0');
  while (copy.size < source.size) {
    const auto wanted = std::min<std::int64_t>(kBlockBytes, source.size.value - copy.size.value);
    const ssize_t count = ::read(source.file.get(), block.data(), static_cast<std::size_t>(wanted));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno_error("read the source", errno);
    if (count == 0) return make_error(Errc::invalid, "the source became shorter while it was read");
    const std::string_view piece(block.data(), static_cast<std::size_t>(count));
    digest.add(piece);
    if (copy.head.size() < kHeadBytes)
      copy.head.append(piece.substr(0, kHeadBytes - copy.head.size()));
    if (auto done = write_block(to.get(), piece); !done) return done.error();
    copy.size += Bytes{count};
  }
  if (::ftruncate(to.get(), copy.size.value) != 0 || ::fsync(to.get()) != 0) {
    return errno_error("end the copy " + to_path, errno);
  }
  copy.sha256 = digest.hex();
  return copy;
}

Result<void> probe_info(const ImageImportOptions& options, const std::string& disk_path,
                        const DiskHeader& header) {
  const std::string format(enum_name(header.format));
  const auto ended =
      run_disk_probe(disk_path, {kQemuImage, "info", "--output=json", "-f", format, "/disk"},
                     options.probe_deadline);
  if (!ended) return ended.error();
  if (ended->exit.code != 0) {
    return make_error(Errc::invalid,
                      fmt::format("qemu-img info cannot read it: {}{}", ended->err,
                                  ended->exit.signal != 0 ? "(killed at its limits)" : ""));
  }
  const auto parsed = parse_json(ended->out);
  if (!parsed || !parsed->is_object())
    return make_error(Errc::internal, "qemu-img info gave no JSON: " + ended->out);
  const json::object& info = parsed->get_object();
  for (const char* field : {"backing-filename", "full-backing-filename"}) {
    if (info.contains(field)) return make_error(Errc::invalid, "it has a backing file");
  }
  const json::value* encrypted = info.if_contains("encrypted");
  if (encrypted != nullptr && encrypted->is_bool() && encrypted->get_bool()) {
    return make_error(Errc::invalid, "it is encrypted");
  }
  const json::value* size = info.if_contains("virtual-size");
  if (size == nullptr || !size->is_int64() || size->get_int64() != header.virtual_size.value) {
    return make_error(Errc::invalid,
                      fmt::format("its header says {} bytes and qemu-img something else",
                                  header.virtual_size.value));
  }
  return {};
}

Result<void> probe_check(const ImageImportOptions& options, const std::string& disk_path) {
  constexpr int kOnlyLeaks = 3;
  const auto ended = run_disk_probe(disk_path, {kQemuImage, "check", "-f", "qcow2", "/disk"},
                                    options.probe_deadline);
  if (!ended) return ended.error();
  if (ended->exit.code == 0 || ended->exit.code == kOnlyLeaks) return {};
  constexpr std::size_t kShownMax = 400;
  return make_error(Errc::invalid,
                    fmt::format("qemu-img check finds it broken: {}{}",
                                ended->out.substr(0, kShownMax), ended->err.substr(0, kShownMax)));
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char letter) { return std::tolower(letter); });
  return text;
}

Result<DiskHeader> judge_copy(const ImageImportOptions& options, const Copy& copy) {
  if (!options.sha256.empty() && lower(options.sha256) != copy.sha256) {
    return make_error(Errc::invalid,
                      fmt::format("its SHA-256 is {}, not {}", copy.sha256, lower(options.sha256)));
  }
  auto header = read_disk_header(copy.head, copy.size);
  if (!header) return header.error();
  const Bytes limit = to_bytes(options.size_mib_max);
  if (header->virtual_size > limit) {
    return make_error(Errc::exhausted,
                      fmt::format("its disk has {} bytes; at most {} are taken (image_mib_max)",
                                  header->virtual_size.value, limit.value));
  }
  return header;
}

Result<ImageManifest> import_into(const ImageImportOptions& options, StagingFolder& staging) {
  const auto source = open_source(options);
  if (!source) return source.error();
  const std::string copy_path = staging.path() + "/disk";
  const auto copy = copy_source(*source, copy_path);
  if (!copy) return copy.error();
  const auto header = judge_copy(options, *copy);
  if (!header) return header.error();
  if (auto done = probe_info(options, copy_path, *header); !done) return done.error();
  if (header->format == ImageFormat::qcow2) {
    if (auto done = probe_check(options, copy_path); !done) return done.error();
  }
  const std::string final_path = copy_path + "." + std::string(enum_name(header->format));
  if (::rename(copy_path.c_str(), final_path.c_str()) != 0)
    return errno_error("rename to " + final_path, errno);
  ImageManifest manifest;
  manifest.format = header->format;
  constexpr std::int64_t kMib = 1 << 20;
  manifest.size_mib = Mib{(header->virtual_size.value + kMib - 1) / kMib};
  manifest.file_bytes = copy->size;
  manifest.sha256 = copy->sha256;
  manifest.sources = {std::filesystem::path(options.source_path).filename().string()};
  if (auto done = staging.write_manifest(manifest); !done) return done.error();
  if (auto done = staging.publish(); !done) return done.error();
  return manifest;
}

}  // namespace

Result<ImageManifest> import_image(const ImageImportOptions& options) {
  if (auto checked = check_name("image", options.name); !checked) return checked.error();
  const std::string final_path = options.images_folder + "/" + options.name;
  const std::string what = fmt::format("import {} as image {}", options.source_path, options.name);
  if (std::filesystem::exists(final_path)) {
    return wrap_error(
        what, make_error(Errc::conflict, "an image of that name is there; images never change"));
  }
  auto staging = StagingFolder::make(final_path);
  if (!staging) return wrap_error(what, staging.error());
  auto imported = import_into(options, *staging);
  if (!imported) return wrap_error(what, imported.error());
  return imported;
}

}  // namespace virga
