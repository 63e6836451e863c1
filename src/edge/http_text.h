#pragma once

#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/serializer.hpp>
#include <map>
#include <optional>
#include <string>

namespace virga {

/// Names in lower case; a header that stands several times is joined by ", ".
std::map<std::string, std::string> header_map(const boost::beast::http::fields& fields);

/// Copies what a user set, but not what this program decides itself (length, connection, encoding).
/// Returns the name of a header that is malformed and was left out.
std::optional<std::string> set_headers(boost::beast::http::fields& fields,
                                       const std::map<std::string, std::string>& headers);

/// The start line and the headers as they go over the wire.
template <bool IsRequest>
std::string header_text(
    boost::beast::http::message<IsRequest, boost::beast::http::empty_body>& message) {
  boost::beast::http::serializer<IsRequest, boost::beast::http::empty_body> serializer(message);
  serializer.split(true);
  std::string text;
  boost::system::error_code error;
  while (!serializer.is_header_done() && !error) {
    serializer.next(error, [&](boost::system::error_code&, const auto& buffers) {
      text += boost::beast::buffers_to_string(buffers);
      serializer.consume(boost::beast::buffer_bytes(buffers));
    });
  }
  return text;
}

}  // namespace virga
