#include "agent/service_asker.h"

#include <fmt/format.h>

#include "edge/http.h"
#include "edge/tls.h"

namespace virga {

void NetworkAsker::ask(const ServiceProbe& probe, std::shared_ptr<const int> from,
                       Callback<Duration> done) {
  HttpCall call;
  const bool tls = !probe.trusted.empty();
  call.url =
      fmt::format("{}://{}:{}{}", tls ? "https" : "http", probe.address, probe.port, probe.path);
  call.deadline = probe.timeout_ms;
  call.network_namespace = std::move(from);
  if (probe.protocol == BalancerProtocol::tcp)
    return tcp_call(loop_, std::move(call), kStands, std::move(done));
  if (tls) {
    // Consumers come by a name that the service is known by, not by its address.
    auto name = name_of(probe.trusted);
    if (!name) return loop_.post([done = std::move(done), why = name.error()] { done(why); });
    call.tls.trusted = probe.trusted;
    call.server_name = *std::move(name);
  }
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
