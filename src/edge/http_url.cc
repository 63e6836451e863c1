#include "edge/http_url.h"

#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>

namespace virga {
namespace {

namespace urls = boost::urls;

Error wrong(const std::string& target, const std::string& why) {
  return make_error(Errc::invalid, "read the address '" + target + "': " + why);
}

bool has_control_character(const std::string& text) {
  for (const char character : text) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte < 0x20 || byte == 0x7f) return true;
  }
  return false;
}

Result<std::string> decode_path(const std::string& target, const urls::url_view& view) {
  const auto segments = view.segments();
  if (!view.is_path_absolute()) return wrong(target, "the path must begin with '/'");
  std::string path;
  std::size_t left = segments.size();
  for (const std::string segment : segments) {
    --left;
    if (segment.empty() && left > 0) return wrong(target, "a path segment is empty");
    if (segment == "." || segment == "..") return wrong(target, "'.' and '..' are refused");
    if (segment.find('/') != std::string::npos) return wrong(target, "an escaped '/' is refused");
    if (has_control_character(segment)) return wrong(target, "control characters are refused");
    path += '/' + segment;
  }
  return path.empty() ? "/" : path;
}

std::uint16_t default_port(bool tls) { return tls ? 443 : 80; }

}  // namespace

Result<RequestTarget> parse_request_target(const std::string& target) {
  auto view = urls::parse_origin_form(target);
  if (!view) view = urls::parse_absolute_uri(target);
  if (!view) return wrong(target, view.error().message());
  auto path = decode_path(target, *view);
  if (!path) return path.error();
  RequestTarget made{*std::move(path), {}};
  urls::encoding_opts options;
  options.space_as_plus = true;
  for (const auto& parameter : view->params(options)) {
    if (parameter.key.empty() && parameter.value.empty()) continue;
    if (has_control_character(parameter.key)) {
      return wrong(target, "control characters are refused");
    }
    if (!made.query.emplace(parameter.key, parameter.value).second) {
      return wrong(target, "the query has '" + parameter.key + "' twice");
    }
  }
  return made;
}

Result<HttpUrl> parse_http_url(const std::string& url) {
  const auto view = urls::parse_absolute_uri(url);
  if (!view) return wrong(url, view.error().message());
  HttpUrl made;
  const std::string scheme = view->scheme();
  made.tls = scheme == "https" || scheme == "wss";
  if (!made.tls && scheme != "http" && scheme != "ws") {
    return wrong(url, "the scheme must be http, https, ws or wss");
  }
  if (view->has_userinfo()) return wrong(url, "user names are refused");
  made.host = view->host_address();
  if (made.host.empty() || has_control_character(made.host)) return wrong(url, "it names no host");
  made.port = view->has_port() ? view->port_number() : default_port(made.tls);
  const bool exact = !view->has_port() || std::string(view->port()) == std::to_string(made.port);
  if (made.port == 0 || !exact) return wrong(url, "the port must be 1 to 65535");
  made.authority = std::string(view->encoded_host_and_port());
  made.target = std::string(view->encoded_target());
  if (made.target.empty() || made.target[0] != '/') made.target.insert(0, "/");
  return made;
}

}  // namespace virga
