#include "driver/volumes/server_record.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>

#include "edge/file.h"

namespace virga {
namespace {

Result<std::unique_ptr<Process>> noted_server(AsioLoop& loop, const std::string& path) {
  const auto text = read_file(path);
  if (!text) return text.error();
  const auto server = from_json_text<ServerRecord>(*text, UnknownFields::ignore);
  if (!server) return server.error();
  if (server->boot_id != read_boot_id()) {
    return make_error(Errc::not_found, "its server ended with an earlier boot");
  }
  return Process::adopt(loop, static_cast<pid_t>(server->pid), server->start_ticks);
}

}  // namespace

Result<Descriptor> claim_server(const std::string& path) {
  const std::string name = path + ".claim";
  Descriptor claim(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!claim.valid()) return errno_error("open " + name, errno);
  if (::flock(claim.get(), LOCK_EX | LOCK_NB) == 0) return claim;
  if (errno == EWOULDBLOCK) return make_error(Errc::conflict, name + " is held: a server lives");
  return errno_error("lock " + name, errno);
}

Result<void> note_server(const std::string& path, const Process& server) {
  const ServerRecord record{read_boot_id(), server.pid(), server.start_ticks()};
  return rewrite_file(path, to_json_text(record), 0600, false);
}

Result<std::unique_ptr<Process>> adopt_server(AsioLoop& loop, const std::string& path) {
  auto process = noted_server(loop, path);
  if (process || process.error().code != Errc::not_found) return process;
  // An agent may have ended after it started a server and before it noted it.
  const auto claim = claim_server(path);
  if (claim || claim.error().code == Errc::not_found) return process;
  return claim.error();
}

}  // namespace virga
