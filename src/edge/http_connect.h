#pragma once

#include <functional>
#include <memory>

#include "edge/byte_stream.h"
#include "edge/http.h"
#include "edge/http_url.h"
#include "edge/io_thread.h"

namespace virga {

/// Resolves, connects and, for https, shakes hands, all within `call.deadline`. `done` runs once, on the thread.
/// Errors: unavailable, timeout, unauthenticated (either side refused the other's certificate), invalid (identity).
void connect_stream(IoThread& thread, const HttpUrl& url, const HttpCall& call,
                    std::function<void(Result<std::shared_ptr<ByteStream>>)> done);

}  // namespace virga
