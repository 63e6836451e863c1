#include "lab/bmc_main.h"

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>

#include "base/log.h"
#include "edge/file.h"
#include "lab/bmc_service.h"
#include "lab/machine_switch.h"

namespace virga {

namespace {

struct BmcOptions {
  std::string listen;
  std::string password_path;
  int watchdog_s = 10;
  LabMachineOptions machine;
};

void add_options(CLI::App& app, BmcOptions& options) {
  app.add_option("--listen", options.listen, "ADDRESS:PORT")->required();
  app.add_option("--host", options.machine.host, "name of the host that it controls")->required();
  app.add_option("--instance", options.machine.instance, "name of the lab")->required();
  app.add_option("--processes", options.machine.processes,
                 "the host's: cgroup:NAME, or namespace:NAME of its network")
      ->required();
  app.add_option("--power-file", options.machine.power_path, "the switch's position")->required();
  app.add_option("--mode-file", options.machine.mode_path, "answers, silent, lies or slow")
      ->required();
  app.add_option("--password-file", options.password_path, "of the user \"virga\"")->required();
  app.add_option("--watchdog", options.machine.watchdog_path, "pipe that the host's leash feeds");
  app.add_option("--watchdog-s", options.watchdog_s, "seconds without a feed until it fires")
      ->check(CLI::Range(2, 600));
}

int fail(const Error& error) {
  log_line(LogLevel::error, "bmc", error.text());
  return 1;
}

int run(const BmcOptions& options) {
  auto password = read_file(options.password_path, 4096);
  if (!password) return fail(password.error());
  while (!password->empty() && password->back() == '\n') password->pop_back();
  const std::size_t colon = options.listen.rfind(':');
  AsioLoop loop;
  auto machine = LabMachine::open(loop, options.machine);
  if (!machine) return fail(machine.error());
  BmcService service(loop, {options.machine.host, "virga", *password}, **machine);
  HttpServerOptions http;
  http.address = options.listen.substr(0, colon);
  http.port = static_cast<std::uint16_t>(
      colon == std::string::npos ? 0 : std::atoi(options.listen.c_str() + colon + 1));
  http.connections_max = 256;
  http.body_bytes_max = 64 << 10;
  http.request_deadline = seconds(600);
  auto server = HttpServer::listen(
      loop, http, [&service](HttpRequest request, std::shared_ptr<HttpReply> reply) {
        service.handle(std::move(request), std::move(reply));
      });
  if (!server) return fail(server.error());
  loop.on_signal({SIGTERM, SIGINT}, [&loop](int) { loop.stop(); });
  loop.run();
  server->reset();
  return 0;
}

}  // namespace

int bmc_main(int argc, char** argv) {
  CLI::App app("the management controller of one lab host", "virgad bmc");
  BmcOptions options;
  add_options(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  options.machine.watchdog_ms = seconds(options.watchdog_s);
  return run(options);
}

}  // namespace virga
