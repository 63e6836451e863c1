#include "runtime/transaction.h"

#include <fmt/format.h>

namespace virga {

OperationId NameSource::operation(Revision revision) {
  return OperationId(fmt::format("op-{}-{}", revision, ++count_));
}

std::string NameSource::outbox_key(Revision revision) {
  return fmt::format("{}{:016}-{:08}", keys::kOutbox, revision, ++count_);
}

}  // namespace virga
