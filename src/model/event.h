#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <string>

#include "base/reflect.h"
#include "model/meta.h"

namespace virga {

enum class Severity { info, warning, alarm };
BOOST_DESCRIBE_ENUM(Severity, info, warning, alarm)

/// One entry of the append-only journal: audit, portal feed, golden log, input of metering.
struct Event {
  std::uint64_t sequence = 0;  ///< set by the journal, without gaps
  WallTime at;
  Severity severity = Severity::info;
  std::string kind;     ///< dotted, stable: "host.suspect", "vm.started"
  std::string subject;  ///< store key: "vm/acme/web"
  std::string tenant;
  std::string actor{};  ///< who asked: "operator", a host's "agent"; empty = the cloud itself
  std::string text;     ///< one sentence for people
  std::string correlation;
  boost::json::object facts;  ///< stable names: epoch, host, proof, elapsed_ms ...
};
BOOST_DESCRIBE_STRUCT(Event, (),
                      (sequence, at, severity, kind, subject, tenant, actor, text, correlation,
                       facts))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<Event>(const Event&);
extern template Result<Event> from_json<Event>(const json::value&, UnknownFields);

}  // namespace virga
