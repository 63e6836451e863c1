#include "server/api/answer.h"

#include <algorithm>

#include "base/reflect.h"

namespace virga::api {

int errc_http_status(Errc code) {
  switch (code) {
    case Errc::invalid: return 400;
    case Errc::not_found: return 404;
    case Errc::conflict: return 409;
    case Errc::exhausted: return 507;
    case Errc::unavailable: return 503;
    case Errc::timeout: return 504;
    case Errc::cancelled: return 409;
    case Errc::fenced: return 409;
    case Errc::unauthenticated: return 401;
    case Errc::denied: return 403;
    case Errc::unsupported: return 501;
    case Errc::internal: return 500;
  }
  return 500;
}

std::string field_of(const std::string& text) {
  const std::size_t end = text.find(": ");
  if (end == std::string::npos || end == 0 || end > 120) return {};
  const std::string front = text.substr(0, end);
  const bool path = std::all_of(front.begin(), front.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '[' ||
           c == ']' || c == '-';
  });
  return path ? front : std::string();
}

HttpResponse json_response(int status, const boost::json::value& body) {
  HttpResponse response;
  response.status = status;
  response.headers["content-type"] = "application/json";
  response.body = boost::json::serialize(body) + "\n";
  return response;
}

HttpResponse problem_response(const Problem& problem) {
  ErrorBody body;
  body.code = to_string(problem.error.code);
  body.text = problem.error.text();
  body.field = field_of(body.text);
  body.reasons = problem.reasons;
  return json_response(problem.status != 0 ? problem.status : errc_http_status(problem.error.code),
                       to_json(body));
}

}  // namespace virga::api
