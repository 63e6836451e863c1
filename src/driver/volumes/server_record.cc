#include "driver/volumes/server_record.h"

#include "edge/file.h"

namespace virga {

Result<void> note_server(const std::string& path, const Process& server) {
  const ServerRecord record{read_boot_id(), server.pid(), server.start_ticks()};
  return replace_file(path, to_json_text(record), 0600);
}

Result<std::unique_ptr<Process>> adopt_server(AsioLoop& loop, const std::string& path) {
  const auto text = read_file(path);
  if (!text) return text.error();
  const auto server = from_json_text<ServerRecord>(*text, UnknownFields::ignore);
  if (!server) return server.error();
  if (server->boot_id != read_boot_id()) {
    return make_error(Errc::not_found, "its server ended with an earlier boot");
  }
  return Process::adopt(loop, static_cast<pid_t>(server->pid), server->start_ticks);
}

}  // namespace virga
