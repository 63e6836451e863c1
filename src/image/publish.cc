#include "image/publish.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "base/reflect.h"
#include "edge/file.h"
#include "edge/process.h"

namespace virga {
namespace {

Result<void> sync_folder(const std::string& path) {
  const Descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid() || ::fsync(folder.get()) != 0)
    return errno_error("fsync folder " + path, errno);
  return {};
}

std::string parent_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

Result<StagingFolder> StagingFolder::make(const std::string& final_path) {
  const std::string parent = parent_of(final_path);
  if (auto made = make_folders(parent); !made) return made.error();
  std::string path =
      parent + "/." + std::filesystem::path(final_path).filename().string() + ".XXXXXX";
  if (::mkdtemp(path.data()) == nullptr)
    return errno_error("make a folder beside " + final_path, errno);
  // mkdtemp makes it private; guests' processes and probes of other users read below it.
  if (::chmod(path.c_str(), 0755) != 0)
    return errno_error("open folder " + path + " to readers", errno);
  return StagingFolder(std::move(path), final_path);
}

StagingFolder::~StagingFolder() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

Result<void> StagingFolder::write_manifest(const ImageManifest& manifest) const {
  return write_file_atomically(path_ + "/manifest.json", to_json_text(manifest) + "\n");
}

Result<void> StagingFolder::replace() {
  if (auto taken = publish(); taken.ok() || taken.error().code != Errc::conflict) return taken;
  if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, final_path_.c_str(), RENAME_EXCHANGE) != 0) {
    return errno_error("exchange " + path_ + " and " + final_path_, errno);
  }
  return sync_folder(
      parent_of(final_path_));  // the old one now has the staging name and goes with it
}

Result<void> StagingFolder::publish() {
  if (auto synced = sync_folder(path_); !synced) return synced;
  if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, final_path_.c_str(), RENAME_NOREPLACE) != 0) {
    return errno_error("rename " + path_ + " to " + final_path_, errno);
  }
  path_.clear();
  return sync_folder(parent_of(final_path_));
}

}  // namespace virga
