#include "agent/leash_main.h"

#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "agent/leash_server.h"
#include "base/log.h"

namespace virga {

namespace {

void warn(const std::string& what) {
  log_line(LogLevel::warning, "leash", what + ": " + strerror(errno));
}

std::string boot_id() {
  if (const char* given = std::getenv("VIRGA_BOOT_ID"); given != nullptr) return given;
  std::FILE* file = std::fopen("/proc/sys/kernel/random/boot_id", "re");
  char text[64] = {};
  if (file == nullptr) return {};
  if (std::fgets(text, sizeof text, file) == nullptr) text[0] = '\0';
  std::fclose(file);
  text[strcspn(text, "\n")] = '\0';
  return text;
}

bool write_text(const char* path, const char* text) {
  const int file = open(path, O_WRONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool written = write(file, text, strlen(text)) >= 0;
  close(file);
  return written;
}

// Memory first: the heap is grown once and never given back, then all pages are pinned, so that the
// leash works on when the host has no page to spare.
void rise_above_guests() {
  constexpr int kHeapBytes = 1 << 20;
  mallopt(M_TRIM_THRESHOLD, 4 * kHeapBytes);
  mallopt(M_MMAP_THRESHOLD, 4 * kHeapBytes);
  std::free(std::calloc(1, kHeapBytes));
  if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) warn("lock memory (needs CAP_IPC_LOCK)");
  if (!write_text("/proc/self/oom_score_adj", "-1000")) {
    warn("be spared by the out-of-memory killer (needs CAP_SYS_RESOURCE)");
  }
  sched_param priority{};
  priority.sched_priority = 10;
  if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &priority) == 0) return;
  if (setpriority(PRIO_PROCESS, 0, -20) != 0) warn("run above the guests (needs CAP_SYS_NICE)");
}

constexpr const char* kUsage =
    "usage: virgad leash --socket PATH [--watchdog PATH] [--watchdog-s SECONDS] [--state PATH]\n"
    "Ends the guests of this host when its lease is over, also when the agent cannot.\n"
    "  --socket      where the agent finds it\n"
    "  --watchdog    /dev/watchdog: resets the machine when this program stands still\n"
    "  --watchdog-s  after so many seconds, 2 to 600; 10 by default\n"
    "  --state       file that keeps what is guarded over a restart of this program\n";

int usage(const std::string& problem) {
  std::fprintf(stderr, "virgad leash: %s\n%s", problem.c_str(), kUsage);
  return 2;
}

/// "--name value" pairs; an empty map and `problem` when they are not.
std::map<std::string, std::string> read_options(int argc, char** argv, std::string& problem) {
  std::map<std::string, std::string> options{
      {"--socket", ""}, {"--watchdog", ""}, {"--watchdog-s", "10"}, {"--state", ""}};
  for (int i = 1; i < argc; i += 2) {
    const auto known = options.find(argv[i]);
    if (known == options.end())
      problem = std::string("unknown option ") + argv[i];
    else if (i + 1 >= argc)
      problem = std::string(argv[i]) + " needs a value";
    else
      known->second = argv[i + 1];
    if (!problem.empty()) return {};
  }
  if (options["--socket"].empty()) problem = "--socket is needed";
  return options;
}

int make_signal_descriptor() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

}  // namespace

int leash_main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "--help") {
    std::fputs(kUsage, stdout);
    return 0;
  }
  std::string problem;
  auto given = read_options(argc, argv, problem);
  if (!problem.empty()) return usage(problem);
  const int watchdog_s = std::atoi(given["--watchdog-s"].c_str());
  if (watchdog_s < 2 || watchdog_s > 600) return usage("--watchdog-s is 2 to 600 seconds");

  LeashLoop loop;
  const int signals = make_signal_descriptor();
  loop.watch(signals, [&] { loop.stop(); });
  LeashOptions options;
  options.socket_path = given["--socket"];
  options.watchdog_path = given["--watchdog"];
  options.state_path = given["--state"];
  options.boot_id = boot_id();
  options.watchdog_ms = seconds(watchdog_s);
  rise_above_guests();
  auto server = LeashServer::open(loop, options);
  if (!server) {
    log_line(LogLevel::error, "leash", server.error().text());
    return 1;
  }
  loop.run();
  return 0;
}

}  // namespace virga
