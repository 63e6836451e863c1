#include "driver/redfish/redfish_bmc.h"

#include <algorithm>
#include <deque>
#include <optional>

#include "base/reflect.h"
#include "edge/http.h"

namespace virga {

namespace {

constexpr Duration kAskDeadline = seconds(5);
constexpr Duration kSwitchDeadline = seconds(15);
constexpr Duration kReadBackEvery = milliseconds(100);
constexpr std::size_t kAnswerBytesMax = 256 << 10;

std::string base64(const std::string& text) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += 3) {
    std::uint32_t group = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      group = group << 8 | (at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u);
    }
    for (std::size_t i = 0; i < 4; ++i) {
      const bool padding = at + i > text.size();
      out += padding ? '=' : kDigits[group >> (18 - 6 * i) & 63];
    }
  }
  return out;
}

const char* reset_type(MachinePower to) { return to == MachinePower::off ? "ForceOff" : "On"; }

/// PoweringOn and PoweringOff are states on the way: neither on nor off yet.
Result<std::optional<MachinePower>> read_power_state(const std::string& body) {
  const auto parsed = parse_json(body, kAnswerBytesMax);
  if (!parsed) return make_error(Errc::internal, "read the answer: " + parsed.error().text());
  const json::value* state =
      parsed->is_object() ? parsed->get_object().if_contains("PowerState") : nullptr;
  const std::string text = state != nullptr && state->is_string()
                               ? std::string(state->get_string().c_str())
                               : std::string();
  if (text == "On") return std::optional(MachinePower::on);
  if (text == "Off") return std::optional(MachinePower::off);
  if (text == "PoweringOn" || text == "PoweringOff" || text == "Paused") {
    return std::optional<MachinePower>();
  }
  return make_error(Errc::internal, "PowerState is \"" + text + "\" instead of On or Off");
}

/// Errors: the call's own; unauthenticated; internal for any other status but success.
Result<void> check_status(const BmcAccess& access, const Result<HttpResponse>& response) {
  if (!response) return response.error();
  const int status = response->status;
  if (status == 401 || status == 403) {
    return make_error(Errc::unauthenticated,
                      "user \"" + access.user + "\" or the password is refused");
  }
  if (status >= 200 && status <= 299) return {};
  return make_error(Errc::internal, "the controller answered status " + std::to_string(status) +
                                        ": " + response->body.substr(0, 200));
}

}  // namespace

/// One call of the user, from its place in the queue to its one completion.
struct RedfishBmc::Command {
  Command(Loop& loop, const BmcAccess& to_access) : access(to_access), limit(loop), pause(loop) {}

  BmcAccess access;
  std::string what;                                ///< "power off machine host-1 by http://..."
  std::optional<MachinePower> to;                  ///< empty = only ask
  std::function<void(Result<MachinePower>)> done;  ///< empty once completed
  std::optional<Error> refusal;                    ///< of the reset
  std::optional<Error> last_error;  ///< of reading back; tells more than a bare timeout
  Instant deadline{};
  Timer limit;
  Timer pause;
};

struct RedfishBmc::State : std::enable_shared_from_this<State> {
  explicit State(AsioLoop& on_loop) : loop(on_loop) {}

  using Pointer = std::shared_ptr<Command>;
  struct Queue {
    std::deque<Pointer> commands;  ///< the first one runs
  };

  void start(const MachineId& machine);
  void complete(const MachineId& machine, const Pointer& command, Result<MachinePower> result);
  using Step = void (State::*)(const MachineId&, const Pointer&, Result<HttpResponse>);
  void call(const MachineId& machine, const Pointer& command, HttpCall request, Step then);
  void reset(const MachineId& machine, const Pointer& command);
  void was_reset(const MachineId& machine, const Pointer& command, Result<HttpResponse> response);
  void ask(const MachineId& machine, const Pointer& command);
  void asked(const MachineId& machine, const Pointer& command, Result<HttpResponse> response);
  void ask_again_later(const MachineId& machine, const Pointer& command);

  AsioLoop& loop;
  std::map<MachineId, Queue> queues;
};

RedfishBmc::RedfishBmc(AsioLoop& loop) : state_(std::make_shared<State>(loop)) {}

RedfishBmc::~RedfishBmc() { state_->queues.clear(); }

void RedfishBmc::power(const Machine& machine, Callback<MachinePower> done) {
  auto command = std::make_shared<Command>(state_->loop, machine.spec.bmc);
  command->what = "ask the power of machine " + machine.meta.name;
  command->deadline = state_->loop.now() + kAskDeadline;
  command->done = std::move(done);
  enqueue(machine, std::move(command));
}

void RedfishBmc::set_power(const Machine& machine, MachinePower to, Callback<void> done) {
  auto command = std::make_shared<Command>(state_->loop, machine.spec.bmc);
  command->what =
      std::string("power ") + std::string(enum_name(to)) + " machine " + machine.meta.name;
  command->to = to;
  command->deadline = state_->loop.now() + kSwitchDeadline;
  command->done = [done = std::move(done)](Result<MachinePower> result) {
    done(result ? Result<void>() : Result<void>(result.error()));
  };
  enqueue(machine, std::move(command));
}

void RedfishBmc::enqueue(const Machine& machine, std::shared_ptr<Command> command) {
  const MachineId id = machine.id();
  const std::weak_ptr<State> weak = state_;
  command->what += " by " + command->access.url;
  auto& queue = state_->queues[id].commands;
  std::optional<Error> refusal;
  if (command->access.protocol != BmcProtocol::redfish) {
    refusal = make_error(Errc::unavailable, command->what + ": its BMC does not speak redfish");
  } else if (queue.size() > kWaitingMax) {
    refusal = make_error(Errc::exhausted, command->what + ": " + std::to_string(kWaitingMax) +
                                              " commands wait already");
  }
  if (refusal) {
    state_->loop.post([weak, command, error = *refusal] {
      if (weak.lock() != nullptr) command->done(error);
    });
    return;
  }
  queue.push_back(command);
  command->limit.set_at(command->deadline, [weak, id, command_weak = std::weak_ptr(command)] {
    const auto state = weak.lock();
    const auto late = command_weak.lock();
    if (state == nullptr || late == nullptr) return;
    Error error = make_error(Errc::timeout, late->what + ": not confirmed in time");
    if (late->last_error) error.cause = std::make_shared<const Error>(*late->last_error);
    state->complete(id, late, error);
  });
  if (queue.size() == 1) {
    state_->loop.post([weak, id] {
      if (const auto state = weak.lock()) state->start(id);
    });
  }
}

void RedfishBmc::State::start(const MachineId& machine) {
  const auto found = queues.find(machine);
  if (found == queues.end() || found->second.commands.empty()) return;
  const Pointer command = found->second.commands.front();
  if (command->to) {
    reset(machine, command);
  } else {
    ask(machine, command);
  }
}

// Completing is the end of a command's turn only when it was the running one.
void RedfishBmc::State::complete(const MachineId& machine, const Pointer& command,
                                 Result<MachinePower> result) {
  const auto found = queues.find(machine);
  if (!command->done || found == queues.end()) return;
  auto& commands = found->second.commands;
  const bool was_running = !commands.empty() && commands.front() == command;
  std::erase(commands, command);
  if (commands.empty()) queues.erase(found);
  command->limit.cancel();
  command->pause.cancel();
  const auto done = std::exchange(command->done, nullptr);
  const auto keep = shared_from_this();
  done(std::move(result));
  if (was_running) keep->start(machine);
}

// Nothing that outlives this object may hold a command: it owns timers of the loop.
void RedfishBmc::State::call(const MachineId& machine, const Pointer& command, HttpCall request,
                             Step then) {
  request.headers["Authorization"] =
      "Basic " + base64(command->access.user + ":" + command->access.password);
  request.headers["Accept"] = "application/json";
  request.body_bytes_max = kAnswerBytesMax;
  request.deadline = std::max<Duration>(command->deadline - loop.now(), milliseconds(1));
  http_call(loop, std::move(request),
            [weak = weak_from_this(), machine, then,
             command_weak = std::weak_ptr(command)](Result<HttpResponse> response) {
              const auto state = weak.lock();
              const auto still = command_weak.lock();
              if (state == nullptr || still == nullptr || !still->done) return;
              ((*state).*then)(machine, still, std::move(response));
            });
}

void RedfishBmc::State::reset(const MachineId& machine, const Pointer& command) {
  HttpCall request;
  request.method = "POST";
  request.url = command->access.url + "/Actions/ComputerSystem.Reset";
  request.headers["Content-Type"] = "application/json";
  request.body = json::serialize(json::object{{"ResetType", reset_type(*command->to)}});
  call(machine, command, std::move(request), &State::was_reset);
}

// Controllers refuse to switch to the state that they are in, each with a status of its own:
// reading back decides.
void RedfishBmc::State::was_reset(const MachineId& machine, const Pointer& command,
                                  Result<HttpResponse> response) {
  if (auto accepted = check_status(command->access, response); !accepted) {
    const Errc code = accepted.error().code;
    if (!response || code == Errc::unauthenticated) {
      return complete(machine, command, wrap_error(command->what, accepted.error()));
    }
    command->refusal = accepted.error();
  }
  ask(machine, command);
}

void RedfishBmc::State::ask(const MachineId& machine, const Pointer& command) {
  HttpCall request;
  request.url = command->access.url;
  call(machine, command, std::move(request), &State::asked);
}

// While it switches, a controller may drop connections: until the deadline only the last answer
// counts.
void RedfishBmc::State::asked(const MachineId& machine, const Pointer& command,
                              Result<HttpResponse> response) {
  std::optional<Error> error;
  std::optional<MachinePower> power;
  if (auto accepted = check_status(command->access, response); !accepted) {
    error = accepted.error();
  } else if (auto state = read_power_state(response->body); state) {
    power = *state;
  } else {
    error = state.error();
  }
  if (power && (!command->to || *command->to == *power)) {
    return complete(machine, command, *power);
  }
  if (command->refusal) error = command->refusal;
  const bool switching = command->to && error && error->code == Errc::unavailable;
  if (error && !switching) return complete(machine, command, wrap_error(command->what, *error));
  command->last_error = error;
  ask_again_later(machine, command);
}

void RedfishBmc::State::ask_again_later(const MachineId& machine, const Pointer& command) {
  command->pause.set_after(kReadBackEvery, [this, machine, weak = std::weak_ptr(command)] {
    if (const auto still = weak.lock()) ask(machine, still);
  });
}

}  // namespace virga
