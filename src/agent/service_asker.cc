#include "agent/service_asker.h"

#include <fmt/format.h>

#include "edge/http.h"

namespace virga {

void NetworkAsker::ask(const ServiceProbe& probe, std::shared_ptr<const int> from,
                       Callback<Duration> done) {
  HttpCall call;
  call.url = fmt::format("http://{}:{}{}", probe.address, probe.port, probe.path);
  call.deadline = probe.timeout_ms;
  call.network_namespace = std::move(from);
  if (probe.protocol == BalancerProtocol::tcp)
    return tcp_call(loop_, std::move(call), kStands, std::move(done));
  const auto judge = [this, began = loop_.now(), most = probe.status_max,
                      done = std::move(done)](const Result<HttpResponse>& response) {
    if (!response) return done(response.error());
    if (response->status >= 200 && response->status <= most) return done(loop_.now() - began);
    done(make_error(Errc::unavailable, fmt::format("answered {}", response->status)));
  };
  // What it says is nobody's business here: its beginning is enough.
  http_stream(
      loop_, std::move(call), [](const std::string&) { return false; }, judge);
}

}  // namespace virga
