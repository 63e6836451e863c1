#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace virga {

/// A world of its own for a child that reads what strangers made; how ProcessOptions::sandbox is kept.
///
/// The child has a network without any device, sees no process but its own, shares no memory with others, and its file
/// system holds only what is named, read-only. A filter refuses it sockets (also those that no network namespace
/// confines: AF_VSOCK, AF_ALG), new namespaces, and the calls through which kernels were most often broken: io_uring,
/// bpf, perf, keys, userfaultfd, ptrace. Where this process is not root a user namespace gives the right to make the
/// others, and no other right. What it starts ends with it.
/// The filter is written here and not with libseccomp: some twenty rules need no library.
///
/// Made before clone; `enter` and `lock` run in the child: bare system calls, no allocation.
class Sandbox {
 public:
  /// `files`: name below the root, one part -> absolute path here.
  explicit Sandbox(const std::map<std::string, std::string>& files);

  /// For clone3.
  std::uint64_t clone_flags() const;

  /// Right after clone, with the rights of the parent. False: errno tells why.
  bool enter();

  /// The last step before exec. False: errno tells why.
  bool lock() const;

 private:
  struct File {
    std::string name;
    std::string source;
    bool folder = false;
    int tree = -1;  ///< the child's own mount of it
  };

  bool map_user() const;
  bool place(const File& file) const;

  std::vector<File> files_;
  bool root_;
  std::string user_map_;
  std::string group_map_;
  std::vector<sock_filter> filter_;
};

}  // namespace virga
