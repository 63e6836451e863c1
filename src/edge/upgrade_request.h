#pragma once

#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>

namespace virga {

/// The request with which a client asked for a WebSocket.
struct UpgradeRequest {
  boost::beast::http::request<boost::beast::http::empty_body> head;
};

}  // namespace virga
