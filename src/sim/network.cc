#include "sim/network.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/reflect.h"

namespace virga::sim {
namespace {

constexpr Duration kConnectMax = seconds(3);

template <typename Message>
void pass_codec(Message& message) {
  auto read = from_json_text<Message>(json::serialize(to_json(message)), UnknownFields::ignore);
  VIRGA_CHECK(read.ok());
  message = std::move(*read);
}

/// A keyed digest that only has to tell right from wrong here; nobody in the simulation forges.
std::string cheap_digest(const std::string& key, const std::string& data) {
  std::uint64_t state = 14695981039346656037U;
  for (const std::string* text : {&key, &data}) {
    for (const char character : *text) {
      state = (state ^ static_cast<unsigned char>(character)) * 1099511628211U;
    }
  }
  return fmt::format("{:016x}", state);
}

template <typename Message>
std::unique_ptr<Message> take_first(std::vector<std::unique_ptr<Message>>& messages) {
  std::unique_ptr<Message> first = std::move(messages.front());
  messages.erase(messages.begin());
  return first;
}

}  // namespace

bool PeerDatagram::open(const std::string* with) {
  if (bytes.empty()) return key == with;
  if (with == nullptr) return false;
  auto read = decode_probe(bytes, *with, cheap_digest);
  if (!read) return false;
  probe = std::move(*read);
  return true;
}

MessageNetwork::MessageNetwork(World& world, NetworkOptions options, Rng rng)
    : world_(world), loop_(world.loop()), options_(options), rng_(rng) {
  world_.observe([this](WorldChange change, const HostTruth& host, const Copy*) {
    if (change == WorldChange::links || change == WorldChange::power) links_changed(host);
  });
}

bool MessageNetwork::passes_up(const HostTruth& host) const {
  return server_link_.in && host.powered && host.partition == 0 && world_.passes(&host, nullptr) &&
         host.links[static_cast<std::size_t>(Wire::management)].out;
}

bool MessageNetwork::passes_down(const HostTruth& host) const {
  return server_link_.out && host.powered && host.partition == 0 && world_.passes(nullptr, &host) &&
         host.links[static_cast<std::size_t>(Wire::management)].in;
}

Duration MessageNetwork::delay() {
  const auto spread = static_cast<std::uint64_t>((options_.delay_max - options_.delay_min).count());
  Duration drawn = options_.delay_min + Duration(static_cast<std::int64_t>(rng_.below(spread + 1)));
  if (options_.stall_per_million > 0 && rng_.chance(options_.stall_per_million)) {
    drawn += milliseconds(static_cast<std::int64_t>(rng_.below(900)));
  }
  return drawn;
}

MessageNetwork::Session* MessageNetwork::find(SessionId session) {
  return session < sessions_.size() ? sessions_[session].get() : nullptr;
}

void MessageNetwork::server_up(SimLoop::Group group, ServerSide side) {
  server_ = std::move(side);
  server_group_ = group;
  server_up_ = true;
  ++server_run_;
}

void MessageNetwork::server_down() {
  server_up_ = false;
  for (SessionId id = 1; id < next_session_; ++id) close_by_server(id);
  server_ = {};
}

void MessageNetwork::set_server_link(Link link) {
  server_link_ = link;
  for (const HostTruth& host : world_.hosts()) links_changed(host);
}

void MessageNetwork::agent_up(const HostTruth& host, SimLoop::Group group, AgentSide side) {
  if (stations_.size() <= host.index) stations_.resize(host.index + 1);
  Station& here = station(host);
  here.group = group;
  here.up = true;
  ++here.run;
  here.session = 0;
  here.side = std::move(side);
}

void MessageNetwork::agent_down(const HostTruth& host, bool closes) {
  Station& here = station(host);
  if (closes) {
    close_by_agent(host);
  } else if (Session* session = find(here.session)) {
    session->agent_open = false;
    session->up.under_way.clear();
    session->up.stuck.clear();
    erase_if_closed(session->id);
  }
  here.up = false;
  here.session = 0;
  here.side = {};
  // Their timers go with the agent's process.
  for (std::uint32_t index = 0; index < datagram_slots_.size(); ++index) {
    if (datagram_slots_[index].to == host.index) free_datagram(index);
  }
}

void MessageNetwork::connect(const HostTruth& host) {
  const Station& here = station(host);
  VIRGA_CHECK(here.up && here.session == 0);
  if (!passes_up(host) || !passes_down(host)) return refuse(host.index, here.run, kConnectMax);
  const Duration wait = delay() * 3;  // TCP and TLS
  loop_.after(wait, [this, index = host.index, run = here.run] { accept(index, run); });
}

void MessageNetwork::refuse(std::size_t host, std::uint64_t run, Duration after) {
  loop_.at_in(stations_[host].group, loop_.now() + after, [this, host, run] {
    if (stations_[host].run != run || !stations_[host].up) return;
    stations_[host].side.connected(
        make_error(Errc::unavailable, "connect to the server: no answer"));
  });
}

void MessageNetwork::accept(std::size_t index, std::uint64_t run) {
  Station& here = stations_[index];
  const HostTruth& host = world_.hosts()[index];
  if (!here.up || here.run != run) return;
  if (!server_up_ || !passes_up(host) || !passes_down(host)) {
    return refuse(index, run, server_up_ ? kConnectMax : delay());
  }
  auto made = std::make_unique<Session>();
  const SessionId id = next_session_++;
  made->id = id;
  made->host = index;
  made->server_open = true;
  if (sessions_.size() <= id) sessions_.resize(id + 1);
  sessions_[id] = std::move(made);
  here.session = id;
  loop_.at_in(server_group_, loop_.now(), [this, id, index] {
    if (const Session* session = find(id); session == nullptr || !session->server_open) return;
    server_.opened(id, world_.hosts()[index]);
  });
  loop_.at_in(here.group, loop_.now(), [this, id, index, run] {
    if (stations_[index].run == run && stations_[index].session == id) {
      stations_[index].side.connected(id);
    }
  });
}

void MessageNetwork::close_by_agent(const HostTruth& host) {
  Station& here = station(host);
  Session* session = find(here.session);
  here.session = 0;
  if (session == nullptr) return;
  const SessionId id = session->id;
  session->agent_open = false;
  if (!session->server_open) return erase_if_closed(id);
  // What was sent before is still delivered; then the server reads the end.
  const Instant end = std::max(session->up.last_delivery, loop_.now()) + delay();
  if (passes_up(host) && session->up.stuck.empty()) {
    loop_.at(end, [this, id] { drop_server_end(id); });
  }
}

void MessageNetwork::close_by_server(SessionId id) {
  Session* session = find(id);
  if (session == nullptr) return;
  session->server_open = false;
  const HostTruth& host = world_.hosts()[session->host];
  if (!session->agent_open) return erase_if_closed(id);
  const Instant end = std::max(session->down.last_delivery, loop_.now()) + delay();
  if (passes_down(host) && session->down.stuck.empty()) {
    loop_.at(end, [this, id] { drop_agent_end(id, "closed by the server"); });
  }
}

void MessageNetwork::drop_agent_end(SessionId id, const std::string& why) {
  Session* session = find(id);
  if (session == nullptr || !session->agent_open) return;
  const std::size_t index = session->host;
  session->agent_open = false;
  erase_if_closed(id);
  Station& here = stations_[index];
  if (here.session != id) return;
  here.session = 0;
  loop_.at_in(here.group, loop_.now(), [this, index, run = here.run, why] {
    if (stations_[index].run == run && stations_[index].up) stations_[index].side.closed(why);
  });
}

void MessageNetwork::drop_server_end(SessionId id) {
  Session* session = find(id);
  if (session == nullptr || !session->server_open) return;
  session->server_open = false;
  erase_if_closed(id);
  loop_.at_in(server_group_, loop_.now(), [this, id, run = server_run_] {
    if (server_up_ && server_run_ == run) server_.closed(id);
  });
}

void MessageNetwork::erase_if_closed(SessionId id) {
  const Session* session = find(id);
  if (session != nullptr && !session->agent_open && !session->server_open) sessions_[id].reset();
}

void MessageNetwork::send_to_server(const HostTruth& host, AgentMessage message) {
  Session* session = find(station(host).session);
  if (session == nullptr || !session->agent_open) return;
  ++messages_;
  if (options_.reset_per_million > 0 && rng_.chance(options_.reset_per_million)) {
    const SessionId id = session->id;
    session->up.under_way.clear();
    loop_.after(delay(), [this, id] { drop_server_end(id); });
    return drop_agent_end(id, "connection reset");
  }
  const bool twice = message.result && options_.duplicate_per_million > 0 &&
                     rng_.chance(options_.duplicate_per_million);
  if (twice) {
    auto copy = up_pool_.take();
    *copy = message;
    push_up(*session, std::move(copy));
  }
  auto sent = up_pool_.take();
  *sent = std::move(message);
  if (options_.codec) pass_codec(*sent);
  push_up(*session, std::move(sent));
}

// While TCP repeats what was not acknowledged, it sends nothing new: where one direction is lost,
// the other carries one message more and then no other.
void MessageNetwork::push_up(Session& session, std::unique_ptr<AgentMessage> message) {
  const HostTruth& host = world_.hosts()[session.host];
  const bool repeats = session.up.timeout_runs;
  if (!passes_up(host) || !passes_down(host)) watch_up(session);
  if (!passes_up(host) || repeats || !session.up.stuck.empty()) {
    session.up.stuck.push_back(std::move(message));
    return;
  }
  session.up.under_way.push_back(std::move(message));
  session.up.last_delivery = std::max(session.up.last_delivery, loop_.now() + delay());
  loop_.at_in(server_group_, session.up.last_delivery, [this, id = session.id] { deliver_up(id); });
}

void MessageNetwork::deliver_up(SessionId id) {
  Session* session = find(id);
  if (session == nullptr || session->up.under_way.empty()) return;
  std::unique_ptr<AgentMessage> message = take_first(session->up.under_way);
  if (session->server_open && server_up_) server_.message(id, std::move(*message));
  up_pool_.give(std::move(message));
}

void MessageNetwork::send_to_agent(SessionId id, const ServerMessage& message) {
  Session* session = find(id);
  if (session == nullptr || !session->server_open) return;
  ++messages_;
  const bool twice = message.command && options_.duplicate_per_million > 0 &&
                     rng_.chance(options_.duplicate_per_million);
  if (twice) {
    auto copy = down_pool_.take();
    *copy = message;
    push_down(*session, std::move(copy));
  }
  auto sent = down_pool_.take();
  *sent = message;
  if (options_.codec) pass_codec(*sent);
  push_down(*session, std::move(sent));
}

void MessageNetwork::push_down(Session& session, std::unique_ptr<ServerMessage> message) {
  const HostTruth& host = world_.hosts()[session.host];
  const bool repeats = session.down.timeout_runs;
  if (!passes_up(host) || !passes_down(host)) watch_down(session);
  if (!session.agent_open) {
    watch_down(session);
    return;
  }
  if (!passes_down(host) || repeats || !session.down.stuck.empty()) {
    session.down.stuck.push_back(std::move(message));
    return;
  }
  session.down.under_way.push_back(std::move(message));
  session.down.last_delivery = std::max(session.down.last_delivery, loop_.now() + delay());
  loop_.at_in(stations_[session.host].group, session.down.last_delivery,
              [this, id = session.id] { deliver_down(id); });
}

void MessageNetwork::deliver_down(SessionId id) {
  Session* session = find(id);
  if (session == nullptr || session->down.under_way.empty()) return;
  std::unique_ptr<ServerMessage> message = take_first(session->down.under_way);
  const Station& here = stations_[session->host];
  if (session->agent_open && here.up && here.session == id) here.side.message(*message);
  down_pool_.give(std::move(message));
}

/// What was sent is not acknowledged: without a change the sender's end breaks when its patience
/// is over.
void MessageNetwork::watch_up(Session& session) {
  if (session.up.timeout_runs) return;
  session.up.timeout_runs = true;
  loop_.after(options_.user_timeout_ms, [this, id = session.id] {
    Session* still = find(id);
    if (still == nullptr || !still->up.timeout_runs) return;
    drop_agent_end(id, "no acknowledgement from the server");
  });
}

void MessageNetwork::watch_down(Session& session) {
  if (session.down.timeout_runs) return;
  session.down.timeout_runs = true;
  loop_.after(options_.user_timeout_ms, [this, id = session.id] {
    Session* still = find(id);
    if (still == nullptr || !still->down.timeout_runs) return;
    drop_server_end(id);
  });
}

void MessageNetwork::links_changed(const HostTruth& host) {
  if (host.index >= stations_.size() || !passes_up(host) || !passes_down(host)) return;
  Station& here = station(host);
  if (here.session == 0) return;
  const SessionId id = here.session;
  Session* session = find(id);
  if (session == nullptr) return;
  if (!session->server_open) return drop_agent_end(id, "connection reset");
  if (session->agent_open) session->up.timeout_runs = session->down.timeout_runs = false;
  // Retransmission brings what is stuck, in order.
  Direction<AgentMessage>::Messages up;
  up.swap(session->up.stuck);
  for (auto& message : up) push_up(*session, std::move(message));
  Direction<ServerMessage>::Messages down;
  down.swap(session->down.stuck);
  for (auto& message : down) push_down(*session, std::move(message));
}

void MessageNetwork::send_datagram(const HostTruth& from, const std::string& to_address,
                                   const PeerProbe& probe, const std::string* key) {
  ++datagrams_;
  const HostTruth* to = world_.find_address(to_address);
  if (to == nullptr || !world_.path(from, *to, Wire::management)) return;
  if (options_.loss_per_million > 0 && rng_.chance(options_.loss_per_million)) return;
  if (options_.duplicate_per_million > 0 && rng_.chance(options_.duplicate_per_million)) {
    datagram_later(*to, probe, key, delay());
  }
  Duration wait = delay();
  if (options_.reorder_per_million > 0 && rng_.chance(options_.reorder_per_million)) {
    wait += milliseconds(static_cast<std::int64_t>(rng_.below(50)));
  }
  datagram_later(*to, probe, key, wait);
}

void MessageNetwork::datagram_later(const HostTruth& to, const PeerProbe& probe,
                                    const std::string* key, Duration after) {
  if (to.index >= stations_.size() || !stations_[to.index].up) return;
  if (datagram_slots_free_.empty()) {
    datagram_slots_free_.push_back(static_cast<std::uint32_t>(datagram_slots_.size()));
    datagram_slots_.emplace_back();
  }
  const std::uint32_t index = datagram_slots_free_.back();
  datagram_slots_free_.pop_back();
  DatagramSlot& slot = datagram_slots_[index];
  slot.to = static_cast<std::uint32_t>(to.index);
  if (options_.codec) {
    slot.datagram.bytes = encode_probe(probe, *key, cheap_digest);
  } else {
    slot.datagram.bytes.clear();
    slot.datagram.probe = probe;
    slot.datagram.key = key;
  }
  loop_.at_in(stations_[to.index].group, loop_.now() + after,
              [this, index, use = slot.use] { deliver_datagram(index, use); });
}

void MessageNetwork::deliver_datagram(std::uint32_t index, std::uint32_t use) {
  DatagramSlot& slot = datagram_slots_[index];
  if (slot.use != use || slot.to == kNobody) return;
  const Station& there = stations_[slot.to];
  if (there.up) there.side.datagram(slot.datagram);
  // Killed from within, the agent has taken the slot back already.
  if (slot.use == use) free_datagram(index);
}

void MessageNetwork::free_datagram(std::uint32_t index) {
  DatagramSlot& slot = datagram_slots_[index];
  slot.to = kNobody;
  ++slot.use;
  datagram_slots_free_.push_back(index);
}

}  // namespace virga::sim
