#include "edge/http_url.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

namespace virga {
namespace {

TEST(HttpUrl, F_B11_targets_are_decoded) {
  const auto target = parse_request_target("/v1/vms/a%20b?limit=10&name=x%26y+z&flag");
  ASSERT_TRUE(target.ok()) << target.error().text();
  EXPECT_EQ(target->path, "/v1/vms/a b");
  EXPECT_EQ(target->query,
            (std::map<std::string, std::string>{{"limit", "10"}, {"name", "x&y z"}, {"flag", ""}}));
  EXPECT_EQ(parse_request_target("/")->path, "/");
  EXPECT_EQ(parse_request_target("/a/")->path, "/a/");
  EXPECT_EQ(parse_request_target("http://host:80/a?b=c")->path, "/a");
}

TEST(HttpUrl, F_F25_paths_that_climb_and_other_tricks_are_refused) {
  for (const std::string target : {"/../etc/passwd", "/a/../b",    "/a/..",    "/%2e%2e/etc",
                                   "/a/%2E%2e/b",    "/.",         "/a/./b",   "//etc",
                                   "/a//b",          "/a%00b",     "/a%2fb",   "/a%2",
                                   "/a%zz",          "/%0d%0aX:1", "/a?x=%g1", "/a?%0a=1",
                                   "/a?x=1&x=2",     "",           "a",        "*",
                                   "/a b",           "/a#b",       "\\..\\"}) {
    const auto parsed = parse_request_target(target);
    ASSERT_FALSE(parsed.ok()) << target;
    EXPECT_EQ(parsed.error().code, Errc::invalid) << target;
  }
}

TEST(HttpUrl, F_F25_no_target_whatsoever_yields_a_path_that_climbs) {
  rc::check([] {
    const auto pieces = *rc::gen::container<std::vector<std::string>>(rc::gen::element<std::string>(
        "/", ".", "..", "%2e", "%2f", "%00", "a", "%", "?", "=", "&", "//"));
    std::string target = "/";
    for (const auto& piece : pieces) target += piece;
    const auto parsed = parse_request_target(target);
    if (!parsed) return;
    const std::string path = parsed->path + "/";
    RC_ASSERT(path[0] == '/');
    RC_ASSERT(path.find("/../") == std::string::npos);
    RC_ASSERT(path.find("/./") == std::string::npos);
    RC_ASSERT(path.find('\0') == std::string::npos);
  });
}

TEST(HttpUrl, F_B11_urls_of_clients) {
  const auto plain = parse_http_url("http://10.77.0.1:7443/v1/vms?limit=1");
  ASSERT_TRUE(plain.ok());
  EXPECT_FALSE(plain->tls);
  EXPECT_EQ(plain->host, "10.77.0.1");
  EXPECT_EQ(plain->port, 7443);
  EXPECT_EQ(plain->target, "/v1/vms?limit=1");
  const auto secure = parse_http_url("wss://[fd00::1]");
  ASSERT_TRUE(secure.ok());
  EXPECT_TRUE(secure->tls);
  EXPECT_EQ(secure->host, "fd00::1");
  EXPECT_EQ(secure->port, 443);
  EXPECT_EQ(secure->target, "/");
  for (const std::string url :
       {"", "host", "ftp://host/", "http://", "http://u:p@host/", "http://host:99999/",
        "http://host/#x", "http://host/\r\nX: 1", "http://host:0/"}) {
    EXPECT_FALSE(parse_http_url(url).ok()) << url;
  }
}

}  // namespace
}  // namespace virga
