#include "driver/qmp/qmp_client.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <sys/socket.h>

#include "base/reflect.h"
#include "driver/qemu/qmp_commands.h"

namespace virga {
namespace {

constexpr const char* kGreeting = R"({"QMP":{"version":{},"capabilities":["oob"]}})"
                                  "\n";

/// A peer that says what the test tells it to.
class QmpTest : public testing::Test {
 protected:
  QmpTest() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    peer = Descriptor(ends[1]);
    client = std::make_unique<QmpClient>(
        loop, std::make_unique<QmpSocket>(loop, Descriptor(ends[0]), std::size_t{4096}));
  }

  void say(const std::string& text) {
    EXPECT_EQ(::send(peer.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  std::string heard() {
    std::string text(1 << 16, '\0');
    const ssize_t count = ::recv(peer.get(), text.data(), text.size(), 0);
    text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
    return text;
  }
  void run_until(const std::function<bool()>& condition) {
    for (int turn = 0; turn < 4000 && !condition(); ++turn) {
      loop.after(milliseconds(1), [this] { loop.stop(); });
      loop.run();
    }
    EXPECT_TRUE(condition());
  }
  void open() {
    std::optional<Result<void>> opened;
    client->open(seconds(20), [&](Result<void> result) { opened = result; });
    say(kGreeting);
    std::string text;
    run_until([&] { return (text += heard()).find("qmp_capabilities") != std::string::npos; });
    EXPECT_NE(text.find("\"oob\""), std::string::npos);
    say(R"({"return":{},"id":1})"
        "\n");
    run_until([&] { return opened.has_value(); });
    EXPECT_TRUE(opened->ok());
  }
  /// Sends a command, lets the peer say `text`, returns how the command ended.
  Result<json::value> ask(const std::string& text, Duration deadline = seconds(20)) {
    std::optional<Result<json::value>> outcome;
    client->execute("query-status", {}, deadline,
                    [&](Result<json::value> result) { outcome = std::move(result); });
    if (!text.empty()) say(text);
    run_until([&] { return outcome.has_value(); });
    return *outcome;
  }

  AsioLoop loop;
  Descriptor peer;
  std::unique_ptr<QmpClient> client;
};

TEST_F(QmpTest, F_B4_AnswersAreMatchedByIdAndEventsAreTold) {
  std::vector<std::string> events;
  client->on_event([&](const QmpEvent& event) { events.push_back(event.name); });
  open();
  const auto answer = ask(R"({"event":"STOP","timestamp":{}})"
                          "\n"
                          R"({"return":5,"id":77})"
                          "\n"
                          R"({"return":{"status":"running"},"id":2})"
                          "\n");
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->at("status").as_string(), "running");
  EXPECT_EQ(events, std::vector<std::string>{"STOP"});
}

TEST_F(QmpTest, F_B4_QemusErrorsKeepTheirWords) {
  open();
  const auto refused = ask(R"({"error":{"class":"GenericError","desc":"no way"},"id":2})"
                           "\n");
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().text().find("\"query-status\" failed: no way"), std::string::npos);
  const auto unknown = ask(R"({"error":{"class":"CommandNotFound","desc":"what"},"id":3})"
                           "\n");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, Errc::unsupported);
}

TEST_F(QmpTest, F_F19_SilentPeerEndsInATimeout) {
  open();
  const auto silent = ask("", milliseconds(20));
  ASSERT_FALSE(silent.ok());
  EXPECT_EQ(silent.error().code, Errc::timeout);
  const auto late = ask(R"({"return":{"late":1},"id":2})"
                        "\n"
                        R"({"return":{"right":1},"id":3})"
                        "\n");
  ASSERT_TRUE(late.ok());
  EXPECT_TRUE(late->as_object().contains("right"));
}

TEST_F(QmpTest, F_F19_PeerThatNeverGreetsEndsInATimeout) {
  std::optional<Result<void>> opened;
  client->open(milliseconds(20), [&](Result<void> result) { opened = result; });
  run_until([&] { return opened.has_value(); });
  ASSERT_FALSE(opened->ok());
  EXPECT_EQ(opened->error().code, Errc::timeout);
}

TEST_F(QmpTest, F_F19_PeerThatDoesNotReadIsNoticed) {
  open();
  const std::string large(100'000, 'x');
  std::optional<Errc> failed;
  for (int count = 0; count < 50 && !failed; ++count) {
    client->execute("x", {{"x", large}}, seconds(20), [&](Result<json::value> result) {
      if (!result) failed = result.error().code;
    });
    loop.after(milliseconds(1), [this] { loop.stop(); });
    loop.run();
  }
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(*failed, Errc::unavailable);
}

class QmpGarbageTest : public QmpTest, public testing::WithParamInterface<std::string> {};

TEST_P(QmpGarbageTest, F_F20_EndsTheConnectionAndAllCommands) {
  open();
  std::optional<Errc> closed;
  client->on_closed([&](const Error& why) { closed = why.code; });
  const auto answer = ask(GetParam());
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, Errc::invalid) << answer.error().text();
  EXPECT_EQ(closed, Errc::invalid);
  EXPECT_TRUE(client->closed());
}

INSTANTIATE_TEST_SUITE_P(Kinds, QmpGarbageTest,
                         testing::Values("garbage\n", "[1,2]\n", "17\n", "{\"a\":\n",
                                         std::string("\0\n", 2), std::string(5000, 'x'),
                                         std::string(64, '[') + "\n", "{\"return\":1,\"id\":2}}\n",
                                         "\xff\xfe\n"));

TEST_F(QmpTest, F_F22_WrongTypesInAnswersDoNoHarm) {
  open();
  std::optional<Result<qmp::MigrationInfo>> info;
  qmp::query_migration(*client,
                       [&](Result<qmp::MigrationInfo> result) { info = std::move(result); });
  say(R"({"return":{"status":7,"ram":[1],"downtime":"x","error-desc":{}},"id":2})"
      "\n");
  run_until([&] { return info.has_value(); });
  ASSERT_TRUE(info->ok());
  EXPECT_EQ((*info)->state, qmp::MigrationState::none);
  std::optional<Result<bool>> open_port;
  qmp::query_port_open(*client, "x", [&](Result<bool> result) { open_port = std::move(result); });
  say(R"({"return":[5,{"label":"x","frontend-open":"yes"}],"id":3})"
      "\n"
      R"({"id":"3","return":1})"
      "\n"
      R"({"id":-1})"
      "\n"
      R"({"event":5,"data":[]})"
      "\n");
  run_until([&] { return open_port.has_value(); });
  ASSERT_TRUE(open_port->ok());
  EXPECT_FALSE(**open_port);
}

TEST_F(QmpTest, LostConnectionEndsAllCommands) {
  open();
  std::optional<Errc> failed;
  client->execute("a", {}, seconds(20),
                  [&](Result<json::value> result) { failed = result.error().code; });
  peer.reset();
  run_until([&] { return failed.has_value(); });
  EXPECT_EQ(*failed, Errc::unavailable);
}

TEST(QmpParserTest, F_B4_AnyCutOfTheStreamGivesTheSameObjects) {
  rc::check([](const std::vector<std::string>& words, std::size_t piece_size) {
    std::string stream;
    for (const std::string& word : words) {
      std::string plain;
      for (const char letter : word) plain += letter >= ' ' && letter < 127 ? letter : '.';
      stream += json::serialize(json::object{{"word", plain}}) + "\r\n";
    }
    const std::size_t step = piece_size % 7 + 1;
    QmpParser parser;
    std::size_t count = 0;
    for (std::size_t at = 0; at < stream.size(); at += step) {
      const auto objects = parser.feed(std::string_view(stream).substr(at, step));
      RC_ASSERT(objects.ok());
      count += objects->size();
    }
    RC_ASSERT(count == words.size());
  });
}

}  // namespace
}  // namespace virga
