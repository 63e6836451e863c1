#include "agent/directory_look.h"

#include <sys/stat.h>

#include <cerrno>

#include "edge/file.h"

namespace virga {

Result<void> look_at_directory(const std::string& directory, const std::string& host,
                               std::uint64_t number) {
  const std::string folder = directory + "/hosts";
  if (::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
    return errno_error("make the folder " + folder, errno);
  }
  const std::string path = folder + "/" + host;
  const std::string text = std::to_string(number) + "\n";
  if (auto written = write_file_atomically(path, text); !written) return written;
  const auto found = read_file(path, 64);
  if (!found) return found.error();
  if (*found == text) return {};
  return make_error(Errc::internal, path + " holds another text than was written");
}

}  // namespace virga
