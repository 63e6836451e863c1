#pragma once

#include <boost/describe.hpp>
#include <boost/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "edge/http.h"

namespace virga::api {

/// One candidate that was considered, or one user of a thing that is in use, and why it stands in the way.
struct Reason {
  std::string candidate;
  std::string reason;
};
BOOST_DESCRIBE_STRUCT(Reason, (), (candidate, reason))

/// The body of every answer that is not a success. Stable.
struct ErrorBody {
  std::string code;   ///< to_string(Errc)
  std::string field;  ///< path of the field at fault: "spec.disks[0].size_mib"; empty = not about a field
  std::string text;
  std::vector<Reason> reasons;
};
BOOST_DESCRIBE_STRUCT(ErrorBody, (), (code, field, text, reasons))

/// A refusal on its way to its caller.
struct Problem {
  Error error;
  std::vector<Reason> reasons;
  int status = 0;  ///< 0 = from the error's code
};

/// The HTTP status of a code: invalid 400, not_found 404, conflict 409, exhausted 507, unavailable 503, timeout 504 ...
int errc_http_status(Errc code);

/// The field that an error's text begins with ("spec.cpus: 0 is ..."); empty when it begins with none.
std::string field_of(const std::string& text);

HttpResponse problem_response(const Problem& problem);
HttpResponse json_response(int status, const boost::json::value& body);

}  // namespace virga::api
