#include "lab/dev_main.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <climits>
#include <csignal>
#include <cstdio>
#include <filesystem>

#include "base/log.h"
#include "lab/lab.h"

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

void add_options(CLI::App& app, DevOptions& options) {
  LabOptions& lab = options.lab;
  app.add_option("--hosts", lab.hosts, "number of hosts")
      ->check(CLI::Range(1, LabNetwork::kHostsMax))
      ->capture_default_str();
  app.add_option("--instance", lab.instance, "name; labs of different names run side by side")
      ->check(check_instance)
      ->capture_default_str();
  app.add_option("--data", lab.data, "folder that is kept; default /var/lib/virga/lab/INSTANCE");
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
  app.add_option("--server-program", lab.server_program, "runs instead of virgad as the server");
  app.add_option("--agent-program", lab.agent_program, "runs instead of virgad as the agents");
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
  if (lab.data.empty()) lab.data = "/var/lib/virga/lab/" + lab.instance;
  lab.data = std::filesystem::absolute(lab.data).lexically_normal().string();
  lab.own_program = own_path();
  for (std::string* program : {&lab.server_program, &lab.agent_program}) {
    if (program->empty()) *program = lab.own_program;
    *program = std::filesystem::absolute(*program).string();
  }
  lab.listen = choose_port(lab.listen);
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
      std::fflush(stdout);
    });
  });
  loop.run();
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
  if (auto rights = check_lab_rights(); !rights) return fail(rights.error());
  auto lock = lock_lab(options.lab.instance);
  if (!lock) return fail(lock.error());
  int code = 0;
  if (auto cleaned = clean_lab(options.lab); !cleaned) {
    code = fail(cleaned.error());
  } else if (!options.clean) {
    code = run(options.lab);
  }
  unlock_lab(options.lab.instance, *lock);
  return code;
}

}  // namespace virga
