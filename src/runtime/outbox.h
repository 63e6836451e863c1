#pragma once

#include <string>
#include <string_view>

#include "model/event.h"
#include "store/store.h"

namespace virga {

/// The write that puts `event` on its way to the journal; it belongs into the same commit as the change that it
/// tells of, so that neither is lost without the other. The key is unique by event.at, `writer` (a short word, one
/// a component of the server) and `counter` (grows with every event of that writer). The forwarder reads the keys
/// in their order, appends to the Journal with the key as source, and removes them.
Write outbox_write(const Event& event, std::string_view writer, std::uint64_t counter);

}  // namespace virga
