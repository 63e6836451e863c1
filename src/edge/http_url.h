#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/result.h"

namespace virga {

/// What a request line asks for, decoded.
struct RequestTarget {
  std::string path;
  std::map<std::string, std::string> query;
};

/// Decodes the target of a request line, in origin form ("/v1/vms?limit=10") or absolute form.
/// Errors: invalid: bad escapes, control characters, "." and ".." segments, empty segments but the last, an escaped
/// slash (what would be one segment for one reader and two for another), a query name given twice.
Result<RequestTarget> parse_request_target(const std::string& target);

/// Where a client connects.
struct HttpUrl {
  bool tls = false;
  std::string host;  ///< name or address, IPv6 without brackets
  std::uint16_t port = 0;
  std::string authority;  ///< for the Host header
  std::string target;     ///< still encoded: "/v1/vms?limit=10"
};

/// Parses "http(s)://..." and "ws(s)://...". Errors: invalid (also for user names and fragments).
Result<HttpUrl> parse_http_url(const std::string& url);

}  // namespace virga
