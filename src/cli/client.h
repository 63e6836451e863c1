#pragma once

#include <boost/json.hpp>
#include <optional>
#include <string>

#include "cli/command.h"

namespace virga::cli {

/// The answer to a request that succeeded.
struct Answer {
  int status = 200;
  boost::json::value body;
  std::string etag;
  std::string location;
  bool unchanged = false;
};

/// One request. A refusal becomes an Error with the server's code and text, its reasons one a line below it.
/// A request that changes something is safe to repeat: it carries an idempotency key.
Result<Answer> request(Session& session, const std::string& method, const std::string& target,
                       const std::optional<boost::json::value>& body = std::nullopt);

/// "/v1/vms/acme/web" with each part percent-encoded; `name` may be "TENANT/NAME".
std::string resource_target(const std::string& plural, const std::string& name);
std::string percent_encoded(const std::string& text);

/// All items of a list, page by page at one revision.
struct Listing {
  std::vector<boost::json::value> items;
  std::uint64_t revision = 0;
};
Result<Listing> list_all(Session& session, const std::string& target);

/// Server-sent events of `target` one by one until `take` returns false: kind and parsed data.
Result<void> follow(
    Session& session, const std::string& target,
    std::function<bool(const std::string& kind, const boost::json::value& data)> take);

/// A transport on sockets. `server`: "http://127.0.0.1:7480".
std::unique_ptr<Transport> http_transport(const std::string& server);

/// --server, VIRGA_SERVER, the context file, or the default; `environment` looks a variable up.
std::string choose_server(const std::string& option,
                          const std::function<std::string(const std::string&)>& environment);

}  // namespace virga::cli
