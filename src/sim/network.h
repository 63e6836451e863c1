#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "agent/peer_probe.h"
#include "agent/protocol.h"
#include "base/rng.h"
#include "sim/world.h"

namespace virga::sim {

struct NetworkOptions {
  Duration delay_min = std::chrono::microseconds(100);
  Duration delay_max = std::chrono::microseconds(600);
  std::uint32_t loss_per_million = 0;       ///< of datagrams
  std::uint32_t duplicate_per_million = 0;  ///< of datagrams, and of commands and results
  std::uint32_t reorder_per_million = 0;    ///< of datagrams: up to 50 ms later
  std::uint32_t stall_per_million = 0;      ///< of messages: up to 900 ms later, and all behind it
  std::uint32_t reset_per_million =
      0;  ///< of messages: the session breaks, what is under way is lost
  Duration user_timeout_ms =
      seconds(8);      ///< a session whose data is not acknowledged for so long breaks
  bool codec = false;  ///< every message goes through its JSON text, as on a real wire
};
BOOST_DESCRIBE_STRUCT(NetworkOptions, (),
                      (loss_per_million, duplicate_per_million, reorder_per_million,
                       stall_per_million, reset_per_million, user_timeout_ms, codec))

using SessionId = std::uint64_t;  ///< 0 = none

/// A probe under way between two agents.
struct PeerDatagram {
  PeerProbe probe;
  const std::string* key =
      nullptr;        ///< what its sender authenticates with, as MessageNetwork::key() gave it
  std::string bytes;  ///< with the codec: the text on the wire; `probe` is unset until it is opened

  /// Whether it is authentic to a reader with this key; `probe` can be read then.
  bool open(const std::string* with);
};

/// Objects that are used again, since there are millions of them an hour. take() gives one in its initial state.
template <typename T>
class Pool {
 public:
  std::unique_ptr<T> take() {
    if (free_.empty()) return std::make_unique<T>();
    std::unique_ptr<T> taken = std::move(free_.back());
    free_.pop_back();
    return taken;
  }
  void give(std::unique_ptr<T> used) {
    *used = T();
    free_.push_back(std::move(used));
  }

 private:
  std::vector<std::unique_ptr<T>> free_;
};

/// Messages between agents and server, and datagrams between agents. A session is what a TCP connection is: in order,
/// once, or broken; each side finds out by itself. A killed process closes its sessions, a dead machine does not.
class MessageNetwork {
 public:
  struct ServerSide {
    std::function<void(SessionId, const HostTruth& from)> opened;
    std::function<void(SessionId, AgentMessage&&)> message;
    std::function<void(SessionId)> closed;
  };
  struct AgentSide {
    std::function<void(PeerDatagram&)> datagram;  ///< first: see Station
    std::function<void(const ServerMessage&)> message;
    std::function<void(Result<SessionId>)> connected;  ///< unavailable: refused or no answer in 3 s
    std::function<void(const std::string& why)> closed;
  };

  MessageNetwork(World& world, NetworkOptions options, Rng rng);

  NetworkOptions& options() { return options_; }

  /// The server listens; its tasks run in `group`. Sessions of the server before break.
  void server_up(SimLoop::Group group, ServerSide side);
  void server_down();
  /// The server's own link on the management network.
  void set_server_link(Link link);

  void agent_up(const HostTruth& host, SimLoop::Group group, AgentSide side);
  /// `closes`: its kernel lives and closes its sessions.
  void agent_down(const HostTruth& host, bool closes);

  /// One at a time for each host; completes by AgentSide::connected.
  void connect(const HostTruth& host);
  void close_by_agent(const HostTruth& host);

  void send_to_server(const HostTruth& host, AgentMessage message);
  void send_to_agent(SessionId session, const ServerMessage& message);
  void close_by_server(SessionId session);

  /// The one copy of this key: equal keys are one object, so that they are compared by address.
  const std::string* key(const std::string& text) { return &*keys_.insert(text).first; }
  /// `key` came from key().
  void send_datagram(const HostTruth& from, const std::string& to_address, const PeerProbe& probe,
                     const std::string* key);

  std::uint64_t messages() const { return messages_; }
  std::uint64_t datagrams() const { return datagrams_; }

 private:
  template <typename Message>
  struct Direction {
    using Messages = std::vector<std::unique_ptr<Message>>;
    Messages under_way;  ///< each has a timer that delivers the first
    Messages stuck;      ///< sent while nothing passes
    Instant last_delivery;
    bool timeout_runs = false;
    Instant unacknowledged_since;
  };
  struct Session {
    SessionId id = 0;
    std::size_t host = 0;
    bool agent_open = true;
    bool server_open = false;
    Direction<AgentMessage> up;
    Direction<ServerMessage> down;
  };
  /// What the delivery of a datagram reads lies in one cache line: with thousands of hosts it is never there yet.
  struct alignas(64) Station {
    SimLoop::Group group = 0;
    bool up = false;
    std::uint64_t run = 0;  ///< changes with every start of its program
    SessionId session = 0;
    AgentSide side;
  };
  struct DatagramSlot {
    PeerDatagram datagram;
    std::uint32_t use = 0;  ///< tells a late timer that the slot serves another one now
    std::uint32_t to = 0;   ///< index of the host; kNobody = free
  };
  static constexpr std::uint32_t kNobody = UINT32_MAX;

  bool passes_up(const HostTruth& host) const;
  bool passes_down(const HostTruth& host) const;
  Duration delay();
  Station& station(const HostTruth& host) { return stations_[host.index]; }
  Session* find(SessionId session);
  void accept(std::size_t host, std::uint64_t run);
  void refuse(std::size_t host, std::uint64_t run, Duration after);
  void push_up(Session& session, std::unique_ptr<AgentMessage> message);
  void push_down(Session& session, std::unique_ptr<ServerMessage> message);
  void deliver_up(SessionId id);
  void deliver_down(SessionId id);
  void watch_up(Session& session);
  void watch_down(Session& session);
  void drop_agent_end(SessionId id, const std::string& why);
  void drop_server_end(SessionId id);
  void erase_if_closed(SessionId id);
  void links_changed(const HostTruth& host);
  void datagram_later(const HostTruth& to, const PeerProbe& probe, const std::string* key,
                      Duration after);
  void deliver_datagram(std::uint32_t index, std::uint32_t use);
  void free_datagram(std::uint32_t index);

  World& world_;
  SimLoop& loop_;
  NetworkOptions options_;
  Rng rng_;
  std::vector<Station> stations_;
  std::vector<std::unique_ptr<Session>> sessions_;  ///< by id; null = ended
  std::set<std::string> keys_;
  Pool<AgentMessage> up_pool_;
  Pool<ServerMessage> down_pool_;
  std::deque<DatagramSlot> datagram_slots_;
  std::vector<std::uint32_t> datagram_slots_free_;
  SessionId next_session_ = 1;
  ServerSide server_;
  SimLoop::Group server_group_ = 0;
  bool server_up_ = false;
  std::uint64_t server_run_ = 0;
  Link server_link_;
  std::uint64_t messages_ = 0;
  std::uint64_t datagrams_ = 0;
};

}  // namespace virga::sim
