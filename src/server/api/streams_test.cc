#include "server/api/api_fixture.h"

namespace virga::test {
namespace {

class Streams : public ApiTest {};

TEST_F(Streams, F_B11_a_watch_shows_changes_from_a_revision_on_without_secrets) {
  make_house();
  const Revision from = view.revision;
  auto watch = start("GET", "/v1/watch?kinds=machines,vms&revision=" + std::to_string(from));
  loop.run_for(milliseconds(50));
  ASSERT_TRUE(watch->opened) << watch->response.body;
  EXPECT_EQ(watch->response.headers.at("content-type"), "text/event-stream");
  ASSERT_EQ(call("POST", "/v1/vms", vm_body("web")).status, 202);
  ASSERT_EQ(call("POST", "/v1/clusters/lab/disarm").status, 200);
  ASSERT_EQ(call("POST", "/v1/clusters/lab/join-token").status, 201);
  ASSERT_EQ(call("POST", "/v1/machines", R"({"meta":{"name":"m1"},"spec":{"bmc":{"protocol":"redfish",
      "url":"http://h/","password":"s3cret"}}})").status, 201);
  const std::string& text = watch->opened->text;
  EXPECT_NE(text.find("event: begin\nid: " + std::to_string(from)), std::string::npos);
  EXPECT_NE(text.find("event: changed\nid: " + std::to_string(from + 1) +
                      "\ndata: {\"key\":\"vm/acme/web\""),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("machine/m1"), std::string::npos);
  for (const char* hidden : {"cluster/", "token/", "outbox/", "address/", "s3cret"}) {
    EXPECT_EQ(text.find(hidden), std::string::npos) << hidden;
  }
}

TEST_F(Streams, F_B11_a_watch_can_be_resumed_by_last_event_id_and_narrowed_to_a_tenant) {
  make_house();
  const Revision from = view.revision;
  ASSERT_EQ(call("POST", "/v1/vms", vm_body("web")).status, 202);
  ASSERT_EQ(call("PUT", "/v1/vms/acme/web", vm_body("web", R"(,"memory_mib":512)")).status, 202);
  auto resumed =
      start("GET", "/v1/watch?kinds=vms", "", {{"last-event-id", std::to_string(from + 1)}});
  auto other = start("GET", "/v1/watch?tenant=zeta&revision=" + std::to_string(from));
  loop.run_for(milliseconds(50));
  ASSERT_TRUE(resumed->opened && other->opened);
  EXPECT_EQ(resumed->opened->text.find("id: " + std::to_string(from + 1) + "\ndata: {\"key\""),
            std::string::npos);
  EXPECT_NE(resumed->opened->text.find("id: " + std::to_string(from + 2)), std::string::npos);
  EXPECT_EQ(other->opened->text.find("acme"), std::string::npos);
}

TEST_F(Streams, F_B11_a_revision_whose_history_is_gone_is_answered_410) {
  make_house();
  bool done = false;
  store.compact(view.revision, [&](Result<void>) { done = true; });
  ASSERT_TRUE(loop.run_until_true([&] { return done; }, seconds(5)));
  const auto gone = call("GET", "/v1/watch?revision=1");
  EXPECT_EQ(gone.status, 410) << gone.body;
  EXPECT_EQ(call("GET", "/v1/watch?kinds=vms,unicorns").status, 400);
}

TEST_F(Streams, F_B11_a_client_that_is_too_slow_or_gone_is_let_go) {
  make_house();
  auto slow = start("GET", "/v1/watch");
  auto gone = start("GET", "/v1/watch");
  loop.run_for(milliseconds(50));
  ASSERT_TRUE(slow->opened && gone->opened);
  slow->opened->full = true;
  gone->opened->closed_handler();
  const std::string before = gone->opened->text;
  ASSERT_EQ(call("POST", "/v1/vms", vm_body("web")).status, 202);
  EXPECT_TRUE(slow->opened->closed);
  EXPECT_EQ(gone->opened->text, before);
}

TEST_F(Streams, F_B11_quiet_streams_carry_a_sign_of_life) {
  auto watch = start("GET", "/v1/watch");
  loop.run_for(seconds(31));
  const std::string& text = watch->opened->text;
  EXPECT_NE(text.find(": alive\n\n: alive\n\n"), std::string::npos) << text;
}

TEST_F(Streams, F_B11_events_are_read_and_followed_without_gap_or_repetition) {
  const auto tell = [&](const char* kind) {
    Event event;
    event.kind = kind;
    journal.append("", event, [](Result<std::uint64_t>) {});
  };
  for (int i = 0; i < 1200; ++i) tell("host.suspect");
  const auto page = parsed(call("GET", "/v1/events?limit=10&after=5"));
  EXPECT_EQ(page.at("items").as_array().size(), 10U);
  EXPECT_EQ(json::serialize(page.at("next")), "15");
  auto follow = start("GET", "/v1/events?follow=true&after=1198");
  tell("vm.started");
  loop.run_for(milliseconds(50));
  tell("vm.stopped");
  ASSERT_TRUE(follow->opened);
  std::string ids;
  const std::string& text = follow->opened->text;
  for (std::size_t at = text.find("id: "); at != std::string::npos;
       at = text.find("id: ", at + 1)) {
    ids += text.substr(at + 4, text.find('\n', at) - at - 4) + " ";
  }
  EXPECT_EQ(ids, "1199 1200 1201 1202 ");
}

TEST_F(Streams, F_B11_streams_end_with_the_api) {
  auto watch = start("GET", "/v1/watch");
  loop.run_for(milliseconds(50));
  ASSERT_TRUE(watch->opened);
  api.reset();
  loop.run_for(seconds(60));
  EXPECT_EQ(watch->opened->text.find("alive"), std::string::npos);
}

}  // namespace
}  // namespace virga::test
