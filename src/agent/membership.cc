#include "agent/membership.h"

#include <fmt/format.h>

#include <utility>

#include "base/log.h"
#include "base/reflect.h"
#include "edge/file.h"

namespace virga {
namespace {

constexpr Duration kCallDeadline = seconds(10);
constexpr std::size_t kShownMax = 300;

/// What is kept in the file.
struct KeptIdentity {
  std::string certificate;
  std::string private_key;
  std::string trusted;
};
BOOST_DESCRIBE_STRUCT(KeptIdentity, (), (certificate, private_key, trusted))

Result<TlsIdentity> read_identity(const std::string& path) {
  const auto text = read_file(path, 1 << 20);
  if (!text) return text.error();
  const auto kept = from_json_text<KeptIdentity>(*text);
  if (!kept) return wrap_error("read " + path, kept.error());
  const auto life = life_of(kept->certificate);
  if (!life) return wrap_error("read " + path, life.error());
  return TlsIdentity{kept->certificate, kept->private_key, kept->trusted};
}

Result<TlsIdentity> identity_in(const HttpResponse& response) {
  if (response.status >= 300) {
    return make_error(response.status >= 500 ? Errc::unavailable : Errc::denied,
                      "refused: " + response.body.substr(0, kShownMax));
  }
  const auto answer = from_json_text<JoinAnswer>(response.body, UnknownFields::ignore);
  if (!answer) return answer.error();
  return TlsIdentity{answer->certificate, answer->private_key, answer->trusted};
}

}  // namespace

Membership::Membership(AsioLoop& loop, MembershipOptions options)
    : loop_(loop), options_(std::move(options)), timer_(loop) {}

void Membership::open(Callback<Identity> done) {
  done_ = std::move(done);
  const auto kept = read_identity(options_.identity_file);
  const bool may_join = !options_.token_file.empty();
  if (kept) {
    const WallTime ends = life_of(kept->certificate)->ends;
    if (ends > loop_.wall_now() || !may_join) {
      identity_ = *kept;
      return answer<Identity>(loop_, done_, Identity{identity_, false});
    }
    log_line(LogLevel::warning, "agent",
             "this host's certificate ended " + to_string(ends) + ": it joins anew");
  } else if (kept.error().code != Errc::not_found) {
    return answer<Identity>(loop_, done_, kept.error());
  }
  if (may_join) return join();
  answer<Identity>(loop_, done_,
                   make_error(Errc::invalid,
                              "--token-file: this host has not joined yet; make a token with "
                              "`virga cluster join-token CLUSTER`"));
}

HttpCall Membership::call_to(const std::string& path, const std::string& body) const {
  HttpCall call;
  call.method = "POST";
  call.url = "https" + options_.server.substr(3) + path;
  call.headers["content-type"] = "application/json";
  call.body = body;
  call.server_name = "virga-server";
  call.deadline = kCallDeadline;
  return call;
}

void Membership::try_join_again(const std::string& why) {
  log_line(
      LogLevel::warning, "agent",
      fmt::format("not joined yet: {}; trying again in {} ms", why, to_ms(options_.join_retry)));
  timer_.set_after(options_.join_retry, [this] { join(); });
}

void Membership::join() {
  const auto token = read_file(options_.token_file, 4096);
  const auto authority = read_file(options_.authority_file, 64 << 10);
  if (!token) return try_join_again(token.error().text());
  if (!authority) return try_join_again(authority.error().text());
  JoinRequest request = options_.request;
  request.token = token->substr(0, token->find_first_of("\r\n"));
  HttpCall call = call_to("/v1/join", to_json_text(request));
  call.tls.trusted = *authority;
  http_call(loop_, std::move(call),
            [this, alive = std::weak_ptr(alive_)](const Result<HttpResponse>& response) {
              if (!alive.expired()) joined(response);
            });
}

void Membership::joined(const Result<HttpResponse>& response) {
  if (!response) return try_join_again(response.error().text());
  const auto identity = identity_in(*response);
  if (!identity) return try_join_again(identity.error().text());
  if (auto taken = take(*identity); !taken) return done_(taken.error());
  log_line(LogLevel::info, "agent", options_.request.host.value + " joined");
  done_(Identity{identity_, true});
}

void Membership::keep(std::function<void(const TlsIdentity&)> use) {
  use_ = std::move(use);
  renewal_.emplace(
      loop_, [this](Callback<TlsIdentity> done) { renew(std::move(done)); },
      [this](const TlsIdentity& identity) {
        auto taken = take(identity);
        if (taken) use_(identity_);
        return taken;
      });
  const auto started = renewal_->start(identity_.certificate);
  VIRGA_CHECK(started.ok());  // open() has read it
}

void Membership::renew(Callback<TlsIdentity> done) {
  HttpCall call =
      call_to(std::string(kRenewal), to_json_text(RenewalRequest{options_.request.addresses}));
  call.tls = identity_;
  http_call(loop_, std::move(call), [done = std::move(done)](const Result<HttpResponse>& response) {
    done(response ? identity_in(*response) : Result<TlsIdentity>(response.error()));
  });
}

/// On the disk before it is used: the old one may end before the next start.
Result<void> Membership::take(const TlsIdentity& identity) {
  if (const auto life = life_of(identity.certificate); !life) return life.error();
  const KeptIdentity kept{identity.certificate, identity.private_key, identity.trusted};
  auto written = write_file_atomically(options_.identity_file, to_json_text(kept), 0600);
  if (written) identity_ = identity;
  return written;
}

}  // namespace virga
