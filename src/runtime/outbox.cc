#include "runtime/outbox.h"

#include <fmt/format.h>

#include "base/reflect.h"
#include "model/keys.h"

namespace virga {

Write outbox_write(const Event& event, std::string_view writer, std::uint64_t counter) {
  return Write{fmt::format("{}{:015}-{}-{:012}", keys::kOutbox, event.at.unix_ms, writer, counter),
               to_json_text(event)};
}

}  // namespace virga
