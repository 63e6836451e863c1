#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "agent/agent_fixture.h"
#include "base/reflect.h"
#include "server/core/agent_sessions.h"
#include "sim/sim_loop.h"
#include "store/memory_store.h"

/// Conversations of server and agent, recorded once a release, are understood by both sides of
/// today. VIRGA_ACCEPT=1 records what they say now as today's version; older files stay.
namespace virga {
namespace {

namespace fs = std::filesystem;

struct Line {
  Duration at_ms{0};
  std::string from;  ///< "agent" or "server"
  json::value message;
};
BOOST_DESCRIBE_STRUCT(Line, (), (at_ms, from, message))

/// The server's side: sessions over a store with one cluster of one host.
class ServerSide : public HostLinks {
 public:
  explicit ServerSide(SimLoop& loop)
      : store_(loop, Rng(1), {}), mirror_(loop, store_), sessions_(loop, store_, mirror_, *this) {
    Cluster cluster;
    cluster.meta.name = "lab";
    cluster.spec.shared_directory = "/srv/shared";
    Host host;
    host.meta.name = "a";
    host.spec.cluster = ClusterId("lab");
    host.status.health = HostHealth::alive;
    Transaction transaction;
    transaction.put(cluster);
    transaction.put(host);
    store_.commit(transaction.guards(), transaction.writes(), [](Result<CommitOutcome>) {});
    mirror_.set_incarnation(1);
    mirror_.open([](Result<void> opened) { EXPECT_TRUE(opened.ok()); });
    loop.run_for(milliseconds(100));
    sessions_.set_probe_keys([](const ClusterId&) { return std::string("00ff"); });
    sessions_.start([](const HostId&) {}, [](const HostId&) {}, [](const Event&) {});
    sessions_.opened(1, "agent:a");
  }

  void send(SessionId, const ServerMessage& message) override {
    sent.push_back(message);
    if (hear) hear(message);
  }
  void close(SessionId) override { ++closed; }
  AgentSessions& sessions() { return sessions_; }

  std::vector<ServerMessage> sent;
  std::function<void(const ServerMessage&)> hear;
  int closed = 0;

 private:
  MemoryStore store_;
  StoreMirror mirror_;
  AgentSessions sessions_;
};

struct AgentSide {
  explicit AgentSide(SimLoop& loop)
      : fabric(loop),
        core({loop, hypervisor, fabric, guard, link, link,
              [] {
                return Capacity{{100}, {64}};
              },
              [] { return std::string(); }},
             options()) {
    core.start([](const Result<void>&) {});
    core.link_opened();
  }

  static AgentOptions options() {
    AgentOptions made;
    made.hello.host = HostId("a");
    made.hello.boot_id = "boot-a";
    made.hello.session_id = "session-a";
    made.hello.agent_version = VIRGA_VERSION;
    made.hello.address = "192.0.2.1";
    made.hello.tenant_address = "198.51.100.1";
    made.hello.probe_port = 7947;
    made.hello.capacity = {{8000}, {8192}};
    return made;
  }

  test::FakeHypervisor hypervisor;
  NullFabric fabric;
  test::FakeGuard guard;
  test::FakeLink link;
  AgentCore core;
};

VmLaunch a_launch() {
  VmLaunch launch;
  launch.vm = VmId("acme/web");
  launch.epoch = {1, 7};
  launch.identity = {"6a7b", "pc-q35-7.2", "qemu64", Accelerator::tcg};
  launch.cpus = 2;
  launch.cpu_millicores = {500};
  launch.memory_mib = {128};
  launch.directory = "vms/acme/web";
  launch.kernel = "images/tiny/kernel";
  launch.parameters = {{"name", "web"}};
  return launch;
}

std::vector<Command> one_of_each_kind() {
  std::vector<Command> all;
  boost::mp11::mp_for_each<boost::describe::describe_enumerators<CommandKind>>([&](auto kind) {
    Command command;
    command.kind = kind.value;
    command.correlation = "ticket-1";
    command.vm = VmId("acme/web");
    command.epoch = {1, 7};
    command.launch = a_launch();
    command.endpoint = MigrationEndpoint{"192.0.2.2", 4444, "secret"};
    command.limits = MigrationLimits();
    command.stop = StopOptions{true, seconds(5)};
    all.push_back(command);
  });
  return all;
}

/// Both sides of today talk for a while; every message goes through its text.
std::vector<Line> record() {
  std::vector<Line> lines;
  SimLoop loop;
  ServerSide server(loop);
  AgentSide agent(loop);
  const auto note = [&](const char* from, json::value message) {
    lines.push_back({loop.elapsed(), from, std::move(message)});
  };
  server.hear = [&](const ServerMessage& message) {
    note("server", to_json(message));
    agent.core.link_received(*from_json<ServerMessage>(lines.back().message));
  };
  std::size_t taken = 0;
  const auto exchange = [&] {
    while (taken < agent.link.sent.size()) {
      note("agent", to_json(agent.link.sent[taken++]));
      server.sessions().received(1, *from_json<AgentMessage>(lines.back().message));
    }
  };
  const auto talk = [&](Duration length) {
    for (Duration passed{}; passed < length; passed += milliseconds(100)) {
      exchange();
      loop.run_for(milliseconds(100));
    }
  };
  talk(seconds(3));
  for (const Command& command : one_of_each_kind()) {
    server.sessions().call(HostId("a"), command, seconds(5), [](const Result<CommandResult>&) {});
    talk(milliseconds(500));
  }
  talk(seconds(1));
  return lines;
}

std::vector<Line> read_transcript(const fs::path& path) {
  std::vector<Line> lines;
  std::ifstream file(path);
  for (std::string text; std::getline(file, text);) {
    auto line = from_json_text<Line>(text);
    EXPECT_TRUE(line.ok()) << path << ": " << text;
    if (line.ok()) lines.push_back(std::move(*line));
  }
  return lines;
}

std::vector<fs::path> transcripts() {
  std::vector<fs::path> all;
  for (const auto& entry : fs::directory_iterator(VIRGA_TRANSCRIPTS)) all.push_back(entry.path());
  std::sort(all.begin(), all.end());
  return all;
}

/// True when all that `old_text` said is still said with the same value.
bool keeps(const json::value& old_value, const json::value& new_value) {
  if (old_value.is_array() && new_value.is_array()) {
    const json::array& was = old_value.get_array();
    const json::array& is = new_value.get_array();
    return std::equal(was.begin(), was.end(), is.begin(), is.end(), keeps);
  }
  if (!old_value.is_object() || !new_value.is_object()) return old_value == new_value;
  for (const auto& [name, value] : old_value.get_object()) {
    const json::value* now = new_value.get_object().if_contains(name);
    if (now == nullptr || !keeps(value, *now)) return false;
  }
  return true;
}

template <typename Message>
void expect_understood(const Line& line) {
  const auto read = from_json<Message>(line.message, UnknownFields::ignore);
  ASSERT_TRUE(read.ok()) << read.error().text() << "\n" << json::serialize(line.message);
  EXPECT_TRUE(keeps(line.message, to_json(*read))) << json::serialize(line.message);
}

/// Adds a member that nobody knows to every struct; `parameters` are a table of the user's words.
void add_unknown(json::value& value) {
  if (value.is_array()) {
    for (json::value& item : value.get_array()) add_unknown(item);
  }
  if (!value.is_object()) return;
  for (auto& member : value.get_object()) {
    if (member.key() != "parameters") add_unknown(member.value());
  }
  value.get_object()["of_a_newer_peer"] = 1;
}

void replay_to_server(const std::vector<Line>& lines) {
  SimLoop loop;
  ServerSide server(loop);
  std::size_t reports = 0;
  for (const Line& line : lines) {
    if (line.from != "agent") continue;
    loop.run_for(line.at_ms - loop.elapsed());
    const auto message = from_json<AgentMessage>(line.message, UnknownFields::ignore);
    reports += message->report ? 1 : 0;
    server.sessions().received(1, *message);
  }
  const LiveHost* host = server.sessions().find(HostId("a"));
  ASSERT_NE(host, nullptr);
  EXPECT_TRUE(host->reported);
  EXPECT_EQ(server.closed, 0);
  const auto granted =
      std::count_if(server.sent.begin(), server.sent.end(),
                    [](const ServerMessage& sent) { return sent.grant.has_value(); });
  EXPECT_EQ(static_cast<std::size_t>(granted), reports);
}

void replay_to_agent(const std::vector<Line>& lines) {
  SimLoop loop;
  loop.run_for(milliseconds(100));  // as the recorder's server needed to open its store
  AgentSide agent(loop);
  std::size_t commands = 0;
  for (const Line& line : lines) {
    if (line.from != "server") continue;
    loop.run_for(line.at_ms - loop.elapsed());
    const auto message = from_json<ServerMessage>(line.message, UnknownFields::ignore);
    commands += message->command ? 1 : 0;
    agent.core.link_received(*message);
  }
  const auto answered =
      std::count_if(agent.link.sent.begin(), agent.link.sent.end(),
                    [](const AgentMessage& sent) { return sent.result.has_value(); });
  EXPECT_EQ(static_cast<std::size_t>(answered) + agent.link.uploads.size(), commands);
  EXPECT_EQ(agent.link.uploads.size(), 1U) << "the console";
  ASSERT_EQ(agent.hypervisor.launches.size(), 1U);
  EXPECT_EQ(to_json(agent.hypervisor.launches.front()), to_json(a_launch()));
  EXPECT_EQ(agent.link.reconnects, 0);
}

TEST(Transcripts, F_B6_conversations_of_each_release_are_understood_by_both_sides) {
  if (std::getenv("VIRGA_ACCEPT") != nullptr) {
    const std::string name =
        std::string(VIRGA_VERSION) + "-protocol-" + std::to_string(kProtocolVersion);
    std::ofstream file(fs::path(VIRGA_TRANSCRIPTS) / (name + ".jsonl"));
    for (const Line& line : record()) file << to_json_text(line) << "\n";
  }
  ASSERT_FALSE(transcripts().empty());
  for (const fs::path& path : transcripts()) {
    SCOPED_TRACE(path.filename());
    const auto lines = read_transcript(path);
    ASSERT_GT(lines.size(), 20U);
    for (const Line& line : lines) {
      line.from == "agent" ? expect_understood<AgentMessage>(line)
                           : expect_understood<ServerMessage>(line);
    }
    replay_to_server(lines);
    replay_to_agent(lines);
  }
}

TEST(Transcripts, F_B6_the_sides_of_today_understand_each_other) {
  const auto lines = record();
  replay_to_server(lines);
  replay_to_agent(lines);
}

TEST(Transcripts, F_B6_F_F21_what_a_newer_peer_adds_is_ignored_on_this_link_and_refused_elsewhere) {
  for (const Line& line : record()) {
    json::value added = line.message;
    add_unknown(added);
    const bool agent = line.from == "agent";
    const auto read = [&](UnknownFields unknown) -> Result<json::value> {
      if (agent) {
        const auto message = from_json<AgentMessage>(added, unknown);
        return message.ok() ? Result<json::value>(to_json(*message)) : message.error();
      }
      const auto message = from_json<ServerMessage>(added, unknown);
      return message.ok() ? Result<json::value>(to_json(*message)) : message.error();
    };
    const auto ignored = read(UnknownFields::ignore);
    ASSERT_TRUE(ignored.ok()) << ignored.error().text();
    EXPECT_EQ(*ignored, line.message);
    EXPECT_FALSE(read(UnknownFields::refuse).ok());
  }
}

}  // namespace
}  // namespace virga
