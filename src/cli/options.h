#pragma once

#include <boost/json.hpp>
#include <string>

#include "cli/command.h"

/// How commands read what was typed into the body of a request.
namespace virga::cli {

namespace json = boost::json;

/// A whole number option into `spec`. Errors: invalid.
Result<void> put_number(const Invocation& invocation, const std::string& option, json::object& spec,
                        const std::string& field);
void put_text(const Invocation& invocation, const std::string& option, json::object& spec,
              const std::string& field);

/// NAME=VALUE pairs. Errors: invalid.
Result<json::object> read_pairs(const Invocation& invocation, const std::string& option);

/// POST of a new resource; with --wait a VM, a volume or a service is followed until it is as wanted.
int create(Session& session, const Invocation& invocation, const std::string& plural,
           json::object spec);

}  // namespace virga::cli
