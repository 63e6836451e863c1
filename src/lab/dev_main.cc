#include "lab/dev_main.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/log.h"
#include "edge/file.h"
#include "lab/lab.h"
#include "lab/lab_client.h"
#include "lab/lab_rights.h"
#include "lab/user_namespace.h"

namespace virga {

namespace {

struct DevOptions {
  LabOptions lab;
  double host_cpus = 1.0;
  std::int64_t host_memory_mib = 2048;
  bool clean = false;
};

std::string check_instance(const std::string& name) {
  const bool good =
      !name.empty() && name.size() <= 8 &&
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789") == std::string::npos;
  return good ? "" : "an instance has 1 to 8 of a-z and 0-9, because link names are made of it";
}

std::string check_host_device(const std::string& word) {
  const std::size_t colon = word.find(':');
  const bool good = word.starts_with("host-") && word.find('=', colon) != std::string::npos;
  return good ? "" : "HOST:NAME=/dev/... is right";
}

void add_options(CLI::App& app, DevOptions& options) {
  LabOptions& lab = options.lab;
  app.add_option("--hosts", lab.hosts, "number of hosts")
      ->check(CLI::Range(1, LabNetwork::kHostsMax))
      ->capture_default_str();
  app.add_option("--instance", lab.instance, "name; labs of different names run side by side")
      ->check(check_instance)
      ->capture_default_str();
  app.add_option("--data", lab.data,
                 "folder that is kept; default /var/lib/virga/lab/INSTANCE, for who is not root "
                 "$HOME/.local/state/virga/lab/INSTANCE");
  app.add_option("--listen", lab.listen, "127.0.0.1:PORT of the API; port 0 = any free one")
      ->capture_default_str();
  app.add_option("--host-cpus", options.host_cpus, "processor cores of a host")
      ->check(CLI::Range(0.1, 256.0))
      ->capture_default_str();
  app.add_option("--host-memory-mib", options.host_memory_mib, "memory of a host")
      ->check(CLI::Range(256, 1 << 20))
      ->capture_default_str();
  app.add_option("--watchdog-s", lab.watchdog_s, "watchdog of a host; 0 = hosts have none")
      ->check(CLI::Range(0, 600))
      ->capture_default_str();
  app.add_option("--host-device", lab.host_devices,
                 "HOST:NAME=/dev/...: a device of this machine that the host offers to its guests; "
                 "may be repeated")
      ->check(check_host_device);
  app.add_option("--log-level", lab.log_level, "of server and agents: debug, info, warning, error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  app.add_option("--server-program", lab.server_program, "runs instead of virgad as the server");
  app.add_option("--agent-program", lab.agent_program, "runs instead of virgad as the agents");
  app.footer(
      "As root, hosts are network namespaces and control groups of this machine. Another user's\n"
      "lab has a user namespace of its own, where the kernel allows one: then hosts have no "
      "control\n"
      "groups, and what they declare of processor and memory is not enforced.");
  app.add_flag("--clean", options.clean, "only remove what a crashed run has left");
}

int fail(const Error& error) {
  log_line(LogLevel::error, "lab", error.text());
  return 1;
}

std::string own_path() {
  char path[PATH_MAX] = {};
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  return length > 0 ? std::string(path, static_cast<std::size_t>(length)) : "";
}

std::string default_data(const std::string& instance) {
  const char* home = std::getenv("HOME");
  if (geteuid() == 0 || home == nullptr || *home == '\0') return "/var/lib/virga/lab/" + instance;
  return std::string(home) + "/.local/state/virga/lab/" + instance;
}

/// A port that was free a moment ago; only for port 0, where two labs must not choose the same.
std::string choose_port(const std::string& listen) {
  const std::size_t colon = listen.rfind(':');
  if (colon == std::string::npos || listen.substr(colon) != ":0") return listen;
  const Descriptor probe(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  bind(probe.get(), reinterpret_cast<const sockaddr*>(&address), size);
  getsockname(probe.get(), reinterpret_cast<sockaddr*>(&address), &size);
  return listen.substr(0, colon) + ":" + std::to_string(ntohs(address.sin_port));
}

void complete(DevOptions& options) {
  LabOptions& lab = options.lab;
  lab.limits = {{static_cast<std::int64_t>(options.host_cpus * 1000)}, {options.host_memory_mib}};
  if (lab.data.empty()) lab.data = default_data(lab.instance);
  lab.data = std::filesystem::absolute(lab.data).lexically_normal().string();
  lab.own_program = own_path();
  for (std::string* program : {&lab.server_program, &lab.agent_program}) {
    if (program->empty()) *program = lab.own_program;
    *program = std::filesystem::absolute(*program).string();
  }
  lab.listen = choose_port(lab.listen);
}

void tell_limits(const LabOptions& options) {
  std::printf(
      "For want of rights on this machine it has a user namespace of its own: what hosts declare "
      "of\n"
      "processor and memory is not enforced, and guests run as this user. A program in there:\n"
      "%s PROGRAM\n",
      options.enter.c_str());
}

/// Ends the loop with this exit code once the lab is gone; a failed start ends it too.
int run(const LabOptions& options) {
  AsioLoop loop;
  Lab lab(loop, options);
  int code = 0;
  bool stopping = false;
  const auto stop = [&] {
    if (std::exchange(stopping, true)) return;
    lab.stop([&](Result<void> done) {
      if (!done) code = fail(done.error());
      loop.stop();
    });
  };
  loop.on_signal({SIGTERM, SIGINT, SIGHUP}, [&](int) { stop(); });
  loop.post([&] {
    lab.start([&](Result<void> started) {
      if (stopping) return;
      if (!started) {
        code = fail(started.error());
        return stop();
      }
      std::printf("The lab \"%s\" is up: %d hosts, API http://%s, data %s\nCtrl-C ends it.\n",
                  options.instance.c_str(), options.hosts, options.listen.c_str(),
                  options.data.c_str());
      if (options.rights == LabRights::user_namespace) tell_limits(options);
      std::fflush(stdout);
    });
  });
  loop.run();
  return code;
}

/// Locks the instance, removes what a crashed run left, and runs the lab unless it is only to be
/// cleaned.
int hold_lab(const LabOptions& options, bool clean) {
  auto lock = lock_lab(options.instance);
  if (!lock) return fail(lock.error());
  int code = 0;
  if (auto cleaned = clean_lab(options); !cleaned) {
    code = fail(cleaned.error());
  } else if (!clean) {
    code = run(options);
  }
  unlock_lab(options.instance, *lock);
  return code;
}

/// The API's socket on the loopback of who starts the lab, which is another than the lab's own.
Result<Descriptor> listen_outside(const std::string& listen) {
  constexpr int kBacklog = 4096;
  constexpr int kOn = 1;
  const std::size_t colon = std::min(listen.rfind(':'), listen.size());
  const std::string port = listen.substr(std::min(colon + 1, listen.size()));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(std::atoi(port.c_str())));
  const bool parsed = inet_pton(AF_INET, listen.substr(0, colon).c_str(), &address.sin_addr) == 1;
  if (!parsed || address.sin_port == 0 || ntohl(address.sin_addr.s_addr) >> 24 != 127) {
    return make_error(Errc::invalid, "--listen \"" + listen +
                                         "\": 127.X.Y.Z:PORT is right, as 127.0.0.1:7070");
  }
  Descriptor made(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &kOn, sizeof kOn);
  if (bind(made.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(made.get(), kBacklog) != 0) {
    return errno_error("listen on " + listen, errno);
  }
  return made;
}

/// /run and /dev/shm are others inside: a data folder there must be brought along.
std::vector<std::string> folders_to_keep(const std::string& data) {
  for (const char* covered : {"/run/", "/var/run/", "/dev/shm/"}) {
    if (data.starts_with(covered)) return {data};
  }
  return {};
}

Result<int> hold_lab_as_user(DevOptions& options) {
  LabOptions& lab = options.lab;
  if (auto made = make_folders(lab.data, 0755); !made) {
    return wrap_error("make the lab's data folder; choose another with --data", made.error());
  }
  Descriptor api;
  if (!options.clean) {
    auto listening = listen_outside(lab.listen);
    if (!listening) return listening.error();
    api = std::move(*listening);
    lab.api_descriptor = api.get();
  }
  if (auto made = make_lab_control_folder(); !made) return made.error();
  const std::string control = lab_control_folder(geteuid());
  auto code = run_in_user_namespace({control, folders_to_keep(lab.data)},
                                    [&options](const std::string& enter) {
                                      options.lab.enter = enter;
                                      return hold_lab(options.lab, options.clean);
                                    });
  rmdir(control.c_str());  // with the last of this user's labs
  return code;
}

}  // namespace

int dev_main(int argc, char** argv) {
  CLI::App app("a whole small cloud on this machine", "virgad dev");
  DevOptions options;
  add_options(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  complete(options);
  auto rights = choose_lab_rights(look_for_lab_rights());
  if (!rights) return fail(rights.error());
  options.lab.rights = *rights;
  if (*rights == LabRights::whole_machine) return hold_lab(options.lab, options.clean);
  auto code = hold_lab_as_user(options);
  return code ? *code : fail(code.error());
}

}  // namespace virga
