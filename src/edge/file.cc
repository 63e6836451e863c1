#include "edge/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "edge/process.h"

namespace virga {
namespace {

Errc code_of(int number) {
  switch (number) {
    case ENOENT:
    case ENOTDIR:
      return Errc::not_found;
    case EACCES:
    case EPERM:
    case EROFS:
      return Errc::denied;
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case EAGAIN:
      return Errc::exhausted;
    case EEXIST:
    case EBUSY:
    case ETXTBSY:
      return Errc::conflict;
    case EINVAL:
    case ENAMETOOLONG:
      return Errc::invalid;
    default:
      return Errc::internal;
  }
}

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Result<void> write_all(int descriptor, const std::string& path, const std::string& text) {
  std::size_t written = 0;
  while (written < text.size()) {
    const ssize_t count = ::write(descriptor, text.data() + written, text.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno_error("write " + path, errno);
    written += static_cast<std::size_t>(count);
  }
  return {};
}

Result<void> fill(int descriptor, const std::string& path, const std::string& text, int mode) {
  if (auto done = write_all(descriptor, path, text); !done) return done;
  if (::fchmod(descriptor, static_cast<mode_t>(mode)) != 0) {
    return errno_error("set the mode of " + path, errno);
  }
  return {};
}

Result<void> replace(const std::string& path, const std::string& text, int mode, bool durable) {
  std::string temporary = path + ".XXXXXX";
  const Descriptor file(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!file.valid()) return errno_error("make a new file beside " + path, errno);
  auto done = fill(file.get(), temporary, text, mode);
  if (done && durable && ::fsync(file.get()) != 0) done = errno_error("fsync " + temporary, errno);
  if (done && ::rename(temporary.c_str(), path.c_str()) != 0) {
    done = errno_error("rename to " + path, errno);
  }
  if (!done) ::unlink(temporary.c_str());
  return done;
}

/// Blocks that it has already are written over.
Result<void> fill_spare(const std::string& path, const std::string& text, int mode, bool durable) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  if (!file.valid()) return errno_error("open " + path, errno);
  if (auto done = fill(file.get(), path, text, mode); !done) return done;
  if (::ftruncate(file.get(), static_cast<off_t>(text.size())) != 0) {
    return errno_error("cut " + path, errno);
  }
  if (durable && ::fsync(file.get()) != 0) return errno_error("fsync " + path, errno);
  return {};
}

/// That it holds as much as the other; what it says does not matter.
Result<void> keep_room(const std::string& spare, const std::string& text, int mode) {
  struct stat seen {};
  const bool holds = ::stat(spare.c_str(), &seen) == 0 &&
                     seen.st_size >= static_cast<off_t>(text.size());
  return holds ? Result<void>() : fill_spare(spare, text, mode, false);
}

Result<void> sync_folder_of(const std::string& path) {
  const Descriptor folder(::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.valid() && ::fsync(folder.get()) == 0) return {};
  return errno_error("fsync the folder of " + path, errno);
}

}  // namespace

Error errno_error(const std::string& what, int number) {
  return make_error(code_of(number), fmt::format("{}: {}", what, std::strerror(number)));
}

Result<std::string> read_file(const std::string& path, std::size_t bytes_max) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return errno_error("open " + path, errno);
  std::string text;
  char piece[16384];
  while (true) {
    const ssize_t count = ::read(file.get(), piece, sizeof piece);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno_error("read " + path, errno);
    if (count == 0) return text;
    text.append(piece, static_cast<std::size_t>(count));
    if (text.size() > bytes_max) {
      return make_error(Errc::invalid,
                        fmt::format("read {}: larger than {} bytes", path, bytes_max));
    }
  }
}

Result<void> replace_file(const std::string& path, const std::string& text, int mode) {
  return replace(path, text, mode, false);
}

Result<void> write_file_atomically(const std::string& path, const std::string& text, int mode) {
  if (auto done = replace(path, text, mode, true); !done) return done;
  return sync_folder_of(path);
}

Result<void> rewrite_file(const std::string& path, const std::string& text, int mode,
                          bool durable) {
  const std::string spare = path + ".spare";
  if (auto filled = fill_spare(spare, text, mode, durable); !filled) return filled;
  bool first = false;
  if (::renameat2(AT_FDCWD, spare.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) != 0) {
    first = errno == ENOENT;
    const bool cannot = errno == EINVAL || errno == ENOSYS;
    if (!first && !cannot) return errno_error("exchange " + path, errno);
    if (::rename(spare.c_str(), path.c_str()) != 0) return errno_error("rename to " + path, errno);
  }
  const auto kept = keep_room(spare, text, mode);
  if (first && !kept) return kept;
  return durable ? sync_folder_of(path) : Result<void>();
}

Result<void> write_kernel_file(const std::string& path, const std::string& text) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid()) return errno_error("open " + path, errno);
  if (::write(file.get(), text.data(), text.size()) < 0) {
    return errno_error(fmt::format("write \"{}\" to {}", text, path), errno);
  }
  return {};
}

Result<void> make_folders(const std::string& path, int mode) {
  for (std::size_t end = 1; end <= path.size(); ++end) {
    if (end != path.size() && path[end] != '/') continue;
    const std::string folder = path.substr(0, end);
    if (::mkdir(folder.c_str(), static_cast<mode_t>(mode)) != 0 && errno != EEXIST) {
      return errno_error("make the folder " + folder, errno);
    }
  }
  struct stat seen {};
  if (::stat(path.c_str(), &seen) != 0) return errno_error("look at " + path, errno);
  if (!S_ISDIR(seen.st_mode)) {
    return make_error(Errc::conflict, "make the folder " + path + ": a file is in its place");
  }
  return {};
}

}  // namespace virga
