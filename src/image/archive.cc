#include "image/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>

#include <memory>

namespace virga {
namespace {

constexpr std::size_t kUnpackedBytesMax = std::size_t{1} << 30;

/// Ends a writer without writing more, whatever state it is in: its target may be gone.
struct EndWriter {
  void operator()(archive* writer) const {
    archive_write_fail(writer);
    archive_write_free(writer);
  }
};
using Writer = std::unique_ptr<archive, EndWriter>;
using Reader = std::unique_ptr<archive, int (*)(archive*)>;
using Entry = std::unique_ptr<archive_entry, void (*)(archive_entry*)>;

Error archive_error(const std::string& what, archive* handle) {
  const char* text = archive_error_string(handle);
  return make_error(Errc::invalid, fmt::format("{}: {}", what, text == nullptr ? "failed" : text));
}

la_ssize_t append_block(archive*, void* target, const void* block, std::size_t bytes) {
  static_cast<std::string*>(target)->append(static_cast<const char*>(block), bytes);
  return static_cast<la_ssize_t>(bytes);
}

Result<void> write_entry(archive* writer, const ArchiveEntry& from, std::int64_t inode) {
  const Entry entry(archive_entry_new(), archive_entry_free);
  archive_entry_set_pathname(entry.get(), from.path.c_str());
  archive_entry_set_mtime(entry.get(), 0, 0);
  archive_entry_set_ino64(entry.get(), inode);
  archive_entry_set_size(entry.get(), 0);
  archive_entry_set_nlink(entry.get(), from.kind == ArchiveEntry::Kind::folder ? 2 : 1);
  switch (from.kind) {
    case ArchiveEntry::Kind::folder:
      archive_entry_set_filetype(entry.get(), AE_IFDIR);
      break;
    case ArchiveEntry::Kind::link:
      archive_entry_set_filetype(entry.get(), AE_IFLNK);
      archive_entry_set_symlink(entry.get(), from.contents.c_str());
      break;
    case ArchiveEntry::Kind::file:
      archive_entry_set_filetype(entry.get(), AE_IFREG);
      archive_entry_set_size(entry.get(), static_cast<la_int64_t>(from.contents.size()));
      break;
  }
  archive_entry_set_perm(entry.get(), static_cast<__LA_MODE_T>(from.mode));
  if (archive_write_header(writer, entry.get()) != ARCHIVE_OK) {
    return archive_error("archive " + from.path, writer);
  }
  if (from.kind != ArchiveEntry::Kind::file || from.contents.empty()) return {};
  const auto bytes = static_cast<la_ssize_t>(from.contents.size());
  if (archive_write_data(writer, from.contents.data(), from.contents.size()) != bytes) {
    return archive_error("archive " + from.path, writer);
  }
  return {};
}

Result<std::string> write_all(archive* writer, const std::vector<ArchiveEntry>& entries) {
  std::string made;
  // One byte per block: no padding after the end, so that the length depends on the contents alone.
  archive_write_set_bytes_in_last_block(writer, 1);
  if (archive_write_open(writer, &made, nullptr, append_block, nullptr) != ARCHIVE_OK) {
    return archive_error("begin an archive", writer);
  }
  std::int64_t inode = 0;
  for (const ArchiveEntry& entry : entries) {
    if (auto done = write_entry(writer, entry, ++inode); !done) return done.error();
  }
  if (archive_write_close(writer) != ARCHIVE_OK) {
    return archive_error("end an archive", writer);
  }
  return made;
}

Result<std::string> read_contents(archive* reader, const std::string& path) {
  std::string contents;
  char block[1 << 16];
  while (true) {
    const la_ssize_t count = archive_read_data(reader, block, sizeof block);
    if (count < 0) return archive_error("unpack " + path, reader);
    if (count == 0) return contents;
    contents.append(block, static_cast<std::size_t>(count));
    if (contents.size() > kUnpackedBytesMax) {
      return make_error(Errc::invalid,
                        fmt::format("unpack {}: larger than {} bytes", path, kUnpackedBytesMax));
    }
  }
}

/// A Debian package is an `ar` archive that holds the files in data.tar with some compression.
Result<std::string> read_data_member(const std::string& package_path) {
  const Reader outer(archive_read_new(), archive_read_free);
  archive_read_support_format_ar(outer.get());
  if (archive_read_open_filename(outer.get(), package_path.c_str(), 1 << 16) != ARCHIVE_OK) {
    return archive_error("open package " + package_path, outer.get());
  }
  archive_entry* entry = nullptr;
  int status = ARCHIVE_OK;
  while ((status = archive_read_next_header(outer.get(), &entry)) == ARCHIVE_OK) {
    const std::string name = archive_entry_pathname(entry);
    if (name.rfind("data.tar", 0) == 0) return read_contents(outer.get(), package_path);
  }
  if (status != ARCHIVE_EOF) return archive_error("read package " + package_path, outer.get());
  return make_error(Errc::invalid, package_path + " is not a Debian package: it has no data.tar");
}

}  // namespace

Result<std::string> make_initrd(const std::vector<ArchiveEntry>& entries) {
  const Writer writer(archive_write_new());
  if (archive_write_set_format_cpio_newc(writer.get()) != ARCHIVE_OK ||
      archive_write_add_filter_zstd(writer.get()) != ARCHIVE_OK ||
      archive_write_set_filter_option(writer.get(), "zstd", "compression-level", "9") !=
          ARCHIVE_OK) {
    return archive_error("prepare an initial RAM disk", writer.get());
  }
  return write_all(writer.get(), entries);
}

Result<std::string> make_iso(const std::vector<ArchiveEntry>& entries, const std::string& volume) {
  const Writer writer(archive_write_new());
  if (archive_write_set_format_iso9660(writer.get()) != ARCHIVE_OK ||
      archive_write_set_format_option(writer.get(), "iso9660", "volume-id", volume.c_str()) !=
          ARCHIVE_OK) {
    return archive_error("prepare an ISO 9660 image", writer.get());
  }
  return write_all(writer.get(), entries);
}

Result<void> read_debian_package(
    const std::string& package_path, const std::function<bool(std::string_view path)>& wanted,
    const std::function<void(std::string path, std::string contents)>& take) {
  const auto data = read_data_member(package_path);
  if (!data) return data.error();
  const Reader inner(archive_read_new(), archive_read_free);
  archive_read_support_format_tar(inner.get());
  archive_read_support_filter_all(inner.get());
  if (archive_read_open_memory(inner.get(), data->data(), data->size()) != ARCHIVE_OK) {
    return archive_error("open data.tar of " + package_path, inner.get());
  }
  archive_entry* entry = nullptr;
  std::size_t unpacked = 0;
  int status = ARCHIVE_OK;
  while ((status = archive_read_next_header(inner.get(), &entry)) == ARCHIVE_OK) {
    std::string path = archive_entry_pathname(entry);
    if (path.rfind("./", 0) == 0) path.erase(0, 2);
    if (archive_entry_filetype(entry) != AE_IFREG || !wanted(path)) continue;
    auto contents = read_contents(inner.get(), path);
    if (!contents) return wrap_error("read package " + package_path, contents.error());
    unpacked += contents->size();
    if (unpacked > kUnpackedBytesMax) {
      return make_error(Errc::invalid, package_path + ": more than 1 GiB when unpacked");
    }
    take(std::move(path), std::move(*contents));
  }
  if (status != ARCHIVE_EOF) return archive_error("read data.tar of " + package_path, inner.get());
  return {};
}

}  // namespace virga
