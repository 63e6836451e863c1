#include "agent/membership.h"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

#include "base/log.h"
#include "base/reflect.h"
#include "edge/file.h"
#include "edge/tls_context.h"

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

/// That all of it can be used, and when it ends.
Result<WallTime> end_of(const TlsIdentity& identity) {
  const auto usable = make_tls_context(identity, TlsSide::client, false);
  if (!usable) return usable.error();
  const auto life = life_of(identity.certificate);
  return life ? Result<WallTime>(life->ends) : Result<WallTime>(life.error());
}

Result<TlsIdentity> read_identity(const std::string& path) {
  const auto text = read_file(path, 1 << 20);
  if (!text) return text.error();
  const auto damaged = [&](const Error& why) {
    return make_error(Errc::invalid, "read " + path + ": " + why.text() +
                                         "; remove it and start with --token-file and a new token");
  };
  const auto kept = from_json_text<KeptIdentity>(*text);
  if (!kept) return damaged(kept.error());
  const TlsIdentity identity{kept->certificate, kept->private_key, kept->trusted};
  const auto end = end_of(identity);
  return end ? Result<TlsIdentity>(identity) : Result<TlsIdentity>(damaged(end.error()));
}

Result<TlsIdentity> identity_in(const HttpResponse& response) {
  if (response.status >= 300) {
    return make_error(response.status >= 500 ? Errc::unavailable : Errc::denied,
                      "refused: " + response.body.substr(0, kShownMax));
  }
  const auto answer = from_json_text<JoinAnswer>(response.body, UnknownFields::ignore);
  if (!answer) return answer.error();
  const TlsIdentity identity{answer->certificate, answer->private_key, answer->trusted};
  const auto end = end_of(identity);
  return end ? Result<TlsIdentity>(identity) : Result<TlsIdentity>(end.error());
}

}  // namespace

Membership::Membership(AsioLoop& loop, MembershipOptions options)
    : loop_(loop), options_(std::move(options)), timer_(loop) {}

void Membership::open(Callback<TlsIdentity> done) {
  auto kept = read_identity(options_.identity_file);
  if (kept || kept.error().code != Errc::not_found) {
    if (kept) identity_ = *kept;
    return answer<TlsIdentity>(loop_, std::move(done), std::move(kept));
  }
  if (options_.token_file.empty()) {
    return answer<TlsIdentity>(loop_, std::move(done),
                               make_error(Errc::invalid,
                                          "--token-file: this host has not joined yet; make a "
                                          "token with `virga cluster join-token CLUSTER`"));
  }
  done_ = std::move(done);
  join();
}

bool Membership::has_ended() const {
  const auto end = end_of(identity_);
  return end && *end <= loop_.wall_now();
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
  const bool first = identity_.empty();
  const Duration pause = first ? options_.join_retry : options_.rejoin_retry;
  log_line(LogLevel::warning, "agent",
           fmt::format("{}: {}; trying again in {} ms",
                       first ? "not joined yet"
                             : "its certificate has ended and it has not joined "
                               "anew",
                       why, to_ms(pause)));
  timer_.set_after(pause, [this] { join(); });
}

void Membership::join() {
  if (!identity_.empty() && !has_ended()) return;  // a clock was wrong, or it was renewed
  const auto token = read_file(options_.token_file, 4096);
  if (!token) return try_join_again("--token-file: " + token.error().text());
  HttpCall call = call_to("/v1/join", "");
  call.tls.trusted = identity_.trusted;
  if (identity_.empty()) {
    const auto authority = read_file(options_.authority_file, 64 << 10);
    if (!authority) return try_join_again("--authority: " + authority.error().text());
    call.tls.trusted = *authority;
  }
  JoinRequest request = options_.request;
  request.token = token->substr(0, token->find_first_of("\r\n"));
  call.body = to_json_text(request);
  http_call(loop_, std::move(call),
            [this, alive = std::weak_ptr(alive_)](const Result<HttpResponse>& response) {
              if (!alive.expired()) joined(response);
            });
}

void Membership::joined(const Result<HttpResponse>& response) {
  if (!response) return try_join_again(response.error().text());
  const auto identity = identity_in(*response);
  if (!identity) return try_join_again(identity.error().text());
  log_line(LogLevel::info, "agent", options_.request.host.value + " joined");
  if (!identity_.empty()) {
    const auto replaced = replace(*identity);
    if (!replaced) log_line(LogLevel::error, "agent", replaced.error().text());
    if (renewal_) static_cast<void>(renewal_->start(identity_.certificate));
    return;
  }
  if (!options_.stale_file.empty()) ::unlink(options_.stale_file.c_str());
  const auto stored = store(*identity);
  if (!stored) {
    return done_(make_error(Errc::internal, stored.error().text() +
                                                "; make room, and a new token: this one is "
                                                "used"));
  }
  identity_ = *identity;
  done_(identity_);
}

void Membership::keep(std::function<void(const TlsIdentity&)> use) {
  use_ = std::move(use);
  renewal_.emplace(
      loop_, [this](Callback<TlsIdentity> done) { renew(std::move(done)); },
      [this](const TlsIdentity& identity) { return replace(identity); });
  const auto started = renewal_->start(identity_.certificate);
  VIRGA_CHECK(started.ok());  // open() has read it
  if (has_ended() && !options_.token_file.empty()) join();
}

void Membership::renew(Callback<TlsIdentity> done) {
  HttpCall call =
      call_to(std::string(kRenewal), to_json_text(RenewalRequest{options_.request.addresses}));
  call.tls = identity_;
  http_call(loop_, std::move(call), [done = std::move(done)](const Result<HttpResponse>& response) {
    done(response ? identity_in(*response) : Result<TlsIdentity>(response.error()));
  });
}

Result<void> Membership::store(const TlsIdentity& identity) const {
  const KeptIdentity kept{identity.certificate, identity.private_key, identity.trusted};
  return write_file_atomically(options_.identity_file, to_json_text(kept), 0600);
}

/// Used also when it cannot be stored: it is asked for again then, and the old one may end before.
Result<void> Membership::replace(const TlsIdentity& identity) {
  if (identity.trusted != identity_.trusted) {
    return make_error(Errc::conflict, "the certificate is of another cloud; to go there remove " +
                                          options_.identity_file + " and start with its token");
  }
  auto stored = store(identity);
  identity_ = identity;
  use_(identity_);
  return stored;
}

}  // namespace virga
