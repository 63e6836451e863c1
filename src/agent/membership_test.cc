#include "agent/membership.h"

#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/reflect.h"
#include "edge/file.h"
#include "edge/http_test_support.h"

namespace virga {
namespace {

/// A server that admits whoever asks, and a host that has not joined.
class MembershipTest : public HttpTest {
 protected:
  MembershipTest() {
    HttpServerOptions options;
    options.tls = identity("server");
    start(options, [this](const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
      answer(request, reply);
    });
    options_.server = url("wss", "");
    options_.request.host = HostId("host-1");
    options_.request.addresses = {"127.0.0.1"};
    options_.token_file = write("token", "secret\n");
    options_.authority_file = write("authority.crt", options.tls.trusted);
    options_.identity_file = folder_ + "/identity.json";
    options_.stale_file = write("incarnation", "7");
    options_.join_retry = options_.rejoin_retry = milliseconds(10);
  }

  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name) << text;
    return folder_ + "/" + name;
  }

  void answer(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
    asked_.push_back(request.path + " of " + request.peer_name);
    last_body_ = request.body;
    if (refusals_-- > 0) return reply->send({.status = 401, .body = "token: is wrong"});
    const TlsIdentity made = identity("agent:host-1", valid_);
    reply->send(
        {.status = 201,
         .body = to_json_text(JoinAnswer{HostId("host-1"), ClusterId("lab"), made.certificate,
                                         made.private_key, made.trusted})});
  }

  Result<TlsIdentity> open() {
    membership_.emplace(loop_, options_);
    Result<TlsIdentity> got = make_error(Errc::internal, "no answer");
    membership_->open([&](Result<TlsIdentity> result) {
      got = std::move(result);
      loop_.stop();
    });
    run();
    return got;
  }

  std::string certificate_on_disk() const {
    const auto text = read_file(options_.identity_file);
    if (!text) return {};
    return std::string(parse_json(*text)->at("certificate").as_string());
  }

  MembershipOptions options_;
  Duration valid_ = std::chrono::hours(1);
  int refusals_ = 0;
  std::vector<std::string> asked_;
  std::string last_body_;
  std::optional<Membership> membership_;
};

TEST_F(MembershipTest, F_B6_a_host_joins_with_its_token_and_keeps_what_it_got) {
  refusals_ = 2;
  const auto joined = open();
  ASSERT_TRUE(joined.ok()) << joined.error().text();
  EXPECT_EQ(read_file(options_.stale_file).error().code, Errc::not_found);
  EXPECT_EQ(asked_, std::vector<std::string>(3, "/v1/join of ")) << "refused, it asks again";
  const auto request = from_json_text<JoinRequest>(last_body_);
  ASSERT_TRUE(request.ok()) << last_body_;
  EXPECT_EQ(request->token, "secret");
  EXPECT_EQ(request->host, HostId("host-1"));
  struct stat info {};
  ASSERT_EQ(::stat(options_.identity_file.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  const auto again = open();
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->certificate, joined->certificate);
  EXPECT_EQ(asked_.size(), 3U);
}

TEST_F(MembershipTest, R_F13_a_certificate_is_replaced_before_it_ends_by_means_of_itself) {
  valid_ = seconds(15);
  const auto first = open();
  ASSERT_TRUE(first.ok()) << first.error().text();
  const WallTime ends = life_of(first->certificate)->ends;
  valid_ = std::chrono::hours(1);
  TlsIdentity renewed;
  membership_->keep([&](const TlsIdentity& identity) {
    renewed = identity;
    loop_.stop();
  });
  run();
  ASSERT_FALSE(renewed.empty());
  EXPECT_LT(loop_.wall_now(), ends);
  EXPECT_EQ(asked_.back(), std::string(kRenewal) + " of agent:host-1");
  EXPECT_EQ(from_json_text<RenewalRequest>(last_body_)->addresses, options_.request.addresses);
  EXPECT_EQ(certificate_on_disk(), renewed.certificate);
  // When the first one has ended the other one still opens the door.
  Timer over(loop_);
  over.set_after(milliseconds(ends.unix_ms - loop_.wall_now().unix_ms) + seconds(1),
                 [this] { loop_.stop(); });
  run();
  HttpCall look;
  look.url = url("https", "/v1/agent");
  look.server_name = "virga-server";
  look.tls = *first;
  const auto refused = call(look);
  EXPECT_FALSE(refused.ok() && asked_.back() == "/v1/agent of agent:host-1");
  look.tls = renewed;
  EXPECT_TRUE(call(look).ok());
  EXPECT_EQ(asked_.back(), "/v1/agent of agent:host-1");
}

TEST_F(MembershipTest, R_F13_a_host_whose_certificate_has_ended_begins_and_joins_anew_beside) {
  valid_ = -seconds(60);
  ASSERT_TRUE(open().ok());
  const std::string ended = certificate_on_disk();
  write("incarnation", "7");
  asked_.clear();
  valid_ = std::chrono::hours(1);
  const auto kept = open();
  ASSERT_TRUE(kept.ok());
  EXPECT_EQ(kept->certificate, ended) << "guests are looked after meanwhile";
  EXPECT_TRUE(asked_.empty());
  refusals_ = 3;
  TlsIdentity renewed;
  membership_->keep([&](const TlsIdentity& identity) {
    renewed = identity;
    loop_.stop();
  });
  run();
  EXPECT_NE(renewed.certificate, ended);
  EXPECT_EQ(certificate_on_disk(), renewed.certificate);
  EXPECT_TRUE(read_file(options_.stale_file).ok()) << "it is the same cloud";
}

TEST_F(MembershipTest, R_F13_who_has_no_room_to_keep_it_uses_it_all_the_same) {
  valid_ = seconds(15);
  ASSERT_TRUE(open().ok());
  const std::string first = certificate_on_disk();
  valid_ = std::chrono::hours(1);
  std::filesystem::remove(options_.identity_file);
  std::filesystem::create_directory(options_.identity_file);  // nothing can replace that
  TlsIdentity renewed;
  membership_->keep([&](const TlsIdentity& identity) {
    renewed = identity;
    loop_.stop();
  });
  run();
  EXPECT_FALSE(renewed.empty());
  EXPECT_NE(renewed.certificate, first);
}

TEST_F(MembershipTest, F_B6_without_a_token_or_with_a_damaged_file_it_is_said_what_to_do) {
  options_.token_file.clear();
  const auto nothing = open();
  EXPECT_EQ(nothing.error().code, Errc::invalid);
  EXPECT_NE(nothing.error().text().find("virga cluster join-token"), std::string::npos);
  for (const char* text :
       {"{", R"({"certificate":"none","private_key":"none","trusted":"none"})"}) {
    options_.identity_file = write("damaged.json", text);
    const auto damaged = open();
    ASSERT_FALSE(damaged.ok());
    EXPECT_NE(damaged.error().text().find("damaged.json"), std::string::npos);
    EXPECT_NE(damaged.error().text().find("remove it"), std::string::npos);
    EXPECT_EQ(*read_file(options_.identity_file), text) << "nothing is overwritten";
  }
}

}  // namespace
}  // namespace virga
