#include "lab/lab.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <set>

#include "base/log.h"
#include "base/reflect.h"
#include "edge/file.h"
#include "edge/tls.h"

namespace virga {

namespace {

constexpr Duration kSaveWithin = milliseconds(50);
constexpr Duration kServerLookEvery = milliseconds(10);
constexpr int kServerLooksMax = 500;

Result<std::string> keep_password(const std::string& path) {
  if (access(path.c_str(), F_OK) != 0) {
    if (auto made = write_file_atomically(path, random_secret() + "\n", 0600); !made) {
      return made.error();
    }
  }
  auto text = read_file(path, 4096);
  if (text) text->erase(text->find_last_not_of('\n') + 1);
  return text;
}

LabReply reply_of(const Result<void>& done) {
  LabReply reply;
  if (done) return reply;
  reply.error_code = std::string(to_string(done.error().code));
  reply.error = done.error().text();
  return reply;
}

LabReply reply_of(json::value result) {
  LabReply reply;
  reply.result = std::move(result);
  return reply;
}

/// By a name of this network namespace that ends with who has it, and leaves no file.
Result<Descriptor> claim_prefix(const std::string& prefix) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = "virga-lab-" + prefix;
  std::copy(name.begin(), name.end(), address.sun_path + 1);
  Descriptor claim(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (::bind(claim.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0) return claim;
  if (errno != EADDRINUSE) return errno_error("claim the addresses " + prefix, errno);
  return make_error(Errc::conflict, "another lab has the addresses " + prefix);
}

}  // namespace

Lab::Lab(AsioLoop& loop, LabOptions options)
    : loop_(loop),
      options_(std::move(options)),
      paths_(options_),
      server_(loop, "server", [this] { save_state(); }),
      saving_(loop),
      waiting_(loop) {}

void Lab::start(Callback<void> done) {
  if (auto built = build(); !built) {
    return loop_.post([done, error = built.error()] { done(error); });
  }
  enrol([this, done = std::move(done)](Result<void> enrolled) {
    if (enrolled) enrolled = power_on_hosts();
    if (enrolled) phase_ = "running";
    save_state();
    done(enrolled);
  });
}

Result<void> Lab::build() {
  for (const auto& folder :
       {paths_.data + "/log", paths_.server(), paths_.shared(), paths_.control, paths_.runtime}) {
    if (auto made = make_folders(folder, 0755); !made) return made;
  }
  auto password = keep_password(paths_.bmc_password());
  if (!password) return password.error();
  bmc_password_ = *password;
  if (auto chosen = choose_prefix(); !chosen) return chosen;
  network_ = std::make_unique<LabNetwork>(LabPlan{options_.instance, prefix_, options_.hosts});
  if (auto made = network_->create(); !made) return made;
  auto control = ControlSocket::listen(loop_, paths_.control + "/control.sock",
                                       [this](LabRequest request, ControlSocket::Reply reply) {
                                         handle(std::move(request), std::move(reply));
                                       });
  if (!control) return control.error();
  control_ = std::move(*control);
  for (int index = 1; index <= options_.hosts; ++index) {
    hosts_.push_back(
        std::make_unique<LabHost>(loop_, options_, *network_, index, [this] { save_state(); }));
    if (auto made = hosts_.back()->prepare(); !made) return made;
    if (auto started = hosts_.back()->start_bmc(); !started) return started;
  }
  return start_server();
}

/// Labs that begin at the same moment see the same addresses free.
Result<void> Lab::choose_prefix() {
  std::set<std::string> others;
  while (!claim_.valid()) {
    auto prefix = LabNetwork::free_prefix(others);
    if (!prefix) return prefix.error();
    auto claim = claim_prefix(*prefix);
    if (!claim && claim.error().code != Errc::conflict) return claim.error();
    if (claim) claim_ = std::move(*claim);
    prefix_ = *prefix;
    others.insert(*prefix);
  }
  return {};
}

Result<void> Lab::start_server() {
  auto birth_files = make_part(options_, "server");
  if (!birth_files) return birth_files.error();
  ProcessOptions start;
  start.arguments = {options_.server_program,
                     "server",
                     "--data",
                     paths_.server(),
                     "--listen",
                     options_.listen,
                     "--agents",
                     network_->plan().server_address() + ":" + std::to_string(kAgentsPort),
                     "--log-level",
                     options_.log_level};
  if (options_.api_descriptor >= 0) {
    constexpr int kThere = 3;
    start.arguments.insert(start.arguments.end(), {"--listen-descriptor", std::to_string(kThere)});
    start.descriptors = {{kThere, options_.api_descriptor}};
  }
  start.environment = lab_environment();
  start.output_path = paths_.log("server");
  start.cgroup_procs = std::move(*birth_files);
  return server_.start(std::move(start));
}

void Lab::enrol(Callback<void> done) {
  EnrolmentPlan plan;
  plan.api = "http://" + options_.listen;
  plan.cluster = kLabCluster;
  plan.shared_directory = paths_.shared();
  plan.bmc_user = "virga";
  plan.bmc_password = bmc_password_;
  for (int index = 1; index <= options_.hosts; ++index) {
    const std::string name = hosts_[static_cast<std::size_t>(index - 1)]->name();
    const std::string url = "http://" + network_->plan().bmc_address(index) + ":" +
                            std::to_string(kBmcPort) + "/redfish/v1/Systems/" + name;
    plan.hosts.push_back({name, url, paths_.token(name)});
  }
  enrolment_ = std::make_unique<Enrolment>(loop_, std::move(plan), std::move(done));
}

Result<void> Lab::power_on_hosts() {
  for (const auto& host : hosts_) {
    if (auto done = host->power_on(); !done)
      return wrap_error("power on " + host->name(), done.error());
  }
  return {};
}

void Lab::stop(Callback<void> done) {
  phase_ = "stopping";
  enrolment_.reset();
  server_.give_up();
  server_.signal(SIGCONT);
  server_.signal(SIGTERM);
  wait_for_server(kServerLooksMax, std::move(done));
}

void Lab::wait_for_server(int looks_left, Callback<void> done) {
  if (server_.running() && looks_left > 0) {
    return waiting_.set_after(kServerLookEvery, [this, looks_left, done = std::move(done)] {
      wait_for_server(looks_left - 1, done);
    });
  }
  if (server_.running()) log_line(LogLevel::warning, "lab", "the server ignores SIGTERM: killed");
  server_.signal(SIGKILL);
  control_.reset();
  hosts_.clear();
  auto cleaned = clean_lab(options_);
  saving_.cancel();
  if (cleaned) unlink(paths_.state().c_str());
  done(cleaned);
}

// Soon instead of at once: at start a dozen processes change within a moment.
void Lab::save_state() {
  saving_.set_after(kSaveWithin, [this] {
    LabState state;
    const LabPlan& plan = network_->plan();
    state.instance = options_.instance;
    state.phase = phase_;
    state.prefix = plan.prefix;
    state.api = "http://" + options_.listen;
    state.control_socket = paths_.control + "/control.sock";
    state.runtime_folder = paths_.runtime;
    state.network_namespaces = {plan.switch_namespace(), plan.bmc_namespace(),
                                plan.client_namespace()};
    state.links = {plan.server_link(), plan.bmc_link()};
    state.enter = options_.enter;
    if (options_.rights == LabRights::whole_machine) {
      state.cgroups = {lab_cgroup_name(options_.instance)};
    }
    state.processes.push_back({"dev", getpid(), 0});
    const auto add = [&state](const Supervised& one) {
      if (one.pid() != 0) state.processes.push_back({one.name(), one.pid(), one.start_ticks()});
    };
    add(server_);
    for (int index = 1; index <= options_.hosts; ++index) {
      state.network_namespaces.push_back(plan.host_namespace(index));
    }
    for (const auto& host : hosts_) {
      for (const Supervised* one : {&host->bmc(), &host->leash(), &host->agent()}) add(*one);
    }
    const auto written = write_file_atomically(paths_.state(), to_json_text(state) + "\n");
    if (!written) log_line(LogLevel::warning, "lab", written.error().text());
  });
}

LabStatus Lab::status() const {
  LabStatus status;
  status.instance = options_.instance;
  status.phase = phase_;
  status.api = "http://" + options_.listen;
  status.data = paths_.data;
  status.shared = paths_.shared();
  status.cluster = kLabCluster;
  status.server_pid = server_.pid();
  status.server_frozen = server_frozen_;
  status.limits = options_.rights == LabRights::whole_machine ? "enforced" : "not enforced";
  status.enter = options_.enter;
  status.client_namespace = network_->plan().client_namespace();
  for (const auto& host : hosts_) status.hosts.push_back(host->status());
  return status;
}

LabHost* Lab::find(const std::string& name) {
  for (const auto& host : hosts_) {
    if (host->name() == name) return host.get();
  }
  return nullptr;
}

void Lab::handle(LabRequest request, ControlSocket::Reply reply) {
  LabHost* host = find(request.host);
  switch (request.kind) {
    case LabRequestKind::status:
      return reply(reply_of(to_json(status())));
    case LabRequestKind::heal:
      return reply(reply_of(heal(request.host)));
    case LabRequestKind::attach_client: {
      auto port = network_->attach_client(request.vni, request.address);
      if (!port) return reply(reply_of(Result<void>(port.error())));
      return reply(reply_of(json::object{{"namespace", network_->plan().client_namespace()},
                                         {"device", port->device},
                                         {"mac", port->mac},
                                         {"tunnel_address", port->tunnel_address}}));
    }
    case LabRequestKind::fail:
      return fail(request, reply);
    // A BMC waits for its answer: what it asked for is done afterwards.
    case LabRequestKind::power_on:
    case LabRequestKind::powered_off:
      break;
  }
  reply(LabReply{});
  if (host == nullptr) return;
  if (request.kind == LabRequestKind::powered_off) return host->powered_off_by_bmc();
  if (auto done = host->power_on(); !done) log_line(LogLevel::error, "lab", done.error().text());
}

void Lab::fail(const LabRequest& request, const ControlSocket::Reply& reply) {
  log_line(LogLevel::info, "lab",
           "fault: " + request.host + " " + std::string(enum_name(request.how)));
  if (request.host == "server") return reply(reply_of(fail_server(request)));
  LabHost* host = find(request.host);
  if (host == nullptr) {
    return reply(reply_of(Result<void>(make_error(
        Errc::not_found, "fail \"" + request.host + "\": the lab has the hosts host-1 to host-" +
                             std::to_string(options_.hosts) + " and server"))));
  }
  if (!request.bmc.empty()) {
    if (auto done = host->set_bmc_mode(request.bmc); !done) return reply(reply_of(done));
  }
  if (request.how != LabFault::power) return reply(reply_of(host->fail(request)));
  host->power_off([reply](Result<void> done) { reply(reply_of(done)); });
}

Result<void> Lab::fail_server(const LabRequest& request) {
  if (request.how == LabFault::power) {
    server_.hold(request.hold);
    server_.signal(SIGKILL);
    return {};
  }
  if (request.how != LabFault::hang) {
    return make_error(Errc::invalid, "fail server by " + std::string(enum_name(request.how)) +
                                         ": the server can fail by power or hang");
  }
  server_.signal(SIGSTOP);
  server_frozen_ = true;
  return {};
}

void Lab::heal_server() {
  server_frozen_ = false;
  server_.hold(false);
  server_.signal(SIGCONT);
}

Result<void> Lab::heal(const std::string& name) {
  LabHost* host = find(name);
  if (name == "server") {
    heal_server();
    return {};
  }
  if (host != nullptr) return host->heal();
  if (!name.empty()) return make_error(Errc::not_found, "heal \"" + name + "\": no such host");
  heal_server();
  Result<void> first;
  for (const auto& each : hosts_) {
    auto done = each->heal();
    if (first && !done) first = done;
  }
  return first;
}

}  // namespace virga
