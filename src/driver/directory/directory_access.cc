#include "driver/directory/directory_access.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <utility>
#include <vector>

#include "edge/file.h"
#include "edge/process.h"

namespace virga {
namespace {

namespace fs = std::filesystem;

std::string names_of(const VolumeFolder& folder) { return folder.path + "/attached"; }

std::string name_of(const VolumeFolder& folder, const AttachmentRecord& attachment) {
  return names_of(folder) + "/" + attachment.export_name;
}

Result<void> sync_folder(const std::string& path) {
  const Descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.valid() && ::fsync(folder.get()) == 0) return {};
  return errno_error("sync " + path, errno);
}

/// A name that is gone must not come back with the power.
Result<void> remove_others(const VolumeFolder& folder,
                           const std::vector<AttachmentRecord>& admitted) {
  std::error_code failed;
  std::vector<std::string> stale;
  for (const auto& entry : fs::directory_iterator(names_of(folder), failed)) {
    const std::string name = entry.path().filename();
    const bool wanted =
        std::any_of(admitted.begin(), admitted.end(),
                    [&](const AttachmentRecord& one) { return one.export_name == name; });
    if (!wanted) stale.push_back(entry.path());
  }
  if (failed && failed != std::errc::no_such_file_or_directory) {
    return errno_error("list " + names_of(folder), failed.value());
  }
  for (const std::string& path : stale) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return errno_error("remove " + path, errno);
  }
  if (stale.empty()) return {};
  return sync_folder(names_of(folder));
}

Result<void> make_names(const VolumeFolder& folder, const std::vector<AttachmentRecord>& admitted) {
  if (auto made = make_folders(names_of(folder), 0700); !made) return made;
  for (const AttachmentRecord& one : admitted) {
    const std::string name = name_of(folder, one);
    if (::link(folder.image().c_str(), name.c_str()) != 0 && errno != EEXIST) {
      return errno_error("link " + folder.image() + " as " + name, errno);
    }
  }
  return {};
}

/// File systems whose files other machines open behind this kernel's back.
bool is_remote(std::int64_t type) {
  constexpr std::int64_t kCifs = 0xff534d42;
  constexpr std::int64_t kSmb2 = 0xfe534d42;
  constexpr std::int64_t kFuse = 0x65735546;
  constexpr std::int64_t kCeph = 0x00c36400;
  constexpr std::int64_t kGfs2 = 0x01161970;
  constexpr std::int64_t kOcfs2 = 0x7461636f;
  constexpr std::int64_t kPlan9 = V9FS_MAGIC;
  const std::int64_t remote[] = {NFS_SUPER_MAGIC, kCifs, kSmb2,  kFuse,
                                 kCeph,           kGfs2, kOcfs2, kPlan9};
  return std::find(std::begin(remote), std::end(remote), type) != std::end(remote);
}

/// The kernel grants a lease for writing only while nobody else has the file open, under whichever
/// name, or mapped.
Result<void> look_for_users(const std::string& image) {
  const Descriptor file(::open(image.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!file.valid()) return errno_error("open " + image, errno);
  struct statfs system {};
  if (::fstatfs(file.get(), &system) != 0) return errno_error("look at " + image, errno);
  if (is_remote(static_cast<std::int64_t>(system.f_type) & 0xffffffff)) {
    return make_error(Errc::unavailable,
                      image +
                          " stands on a file system that other hosts can have too; only who "
                          "knows of their end can say that nobody has it open");
  }
  // Who opens it this very moment has us told by this signal, which nobody hears.
  ::fcntl(file.get(), F_SETSIG, SIGURG);
  if (::fcntl(file.get(), F_SETLEASE, F_WRLCK) == 0) {
    ::fcntl(file.get(), F_SETLEASE, F_UNLCK);
    return {};
  }
  if (errno == EAGAIN) {
    return make_error(Errc::unavailable,
                      image + " is open and cannot be taken from who has it: end the consumer");
  }
  return make_error(Errc::unavailable, errno_error("ask who has " + image + " open", errno).text());
}

}  // namespace

DirectoryAccess::DirectoryAccess(VolumeContext& context, DirectoryOptions::Consumers consumers,
                                 VolumeFolder folder, VolumeFolder seen)
    : VolumeAccess(std::move(folder)),
      context_(context),
      consumers_(consumers),
      seen_(std::move(seen)) {}

void DirectoryAccess::on_worker(std::function<Result<void>()> job, Callback<void> done) {
  context_.worker.run<void>(std::move(job),
                            [done, alive = std::weak_ptr(alive_)](Result<void> ended) {
                              if (!alive.expired()) done(std::move(ended));
                            });
}

void DirectoryAccess::serve(const VolumeRecord& record, Callback<void> done) {
  on_worker(
      [folder = folder_, admitted = admitted_of(record)] {
        auto removed = remove_others(folder, admitted);
        return removed ? make_names(folder, admitted) : removed;
      },
      [this, done = std::move(done)](Result<void> made) {
        served_ = made.ok();
        done(std::move(made));
      });
}

void DirectoryAccess::cut(const VolumeRecord& record, Callback<void> done) {
  if (admitted_of(record).empty()) served_ = false;
  on_worker([folder = folder_,
             admitted = admitted_of(record)] { return remove_others(folder, admitted); },
            std::move(done));
}

void DirectoryAccess::prove_ended(const VolumeRecord&, Callback<void> done) {
  if (consumers_ == DirectoryOptions::Consumers::other_hosts) {
    return answer<void>(
        context_.loop, std::move(done),
        make_error(Errc::unavailable,
                   folder_.path + ": other hosts have this directory too and nothing here can cut "
                                  "them off or tell whether they write"));
  }
  on_worker([image = folder_.image()] { return look_for_users(image); }, std::move(done));
}

VolumeEndpoint DirectoryAccess::endpoint(const VolumeRecord&,
                                         const AttachmentRecord& attachment) const {
  return {"file", "", 0, name_of(seen_, attachment), "", ""};
}

}  // namespace virga
