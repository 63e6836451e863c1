#include "sim/sim_main.h"

#include <fmt/format.h>

#include <cstdio>
#include <ctime>
#include <fstream>
#include <sstream>

#include "CLI/CLI.hpp"
#include "arch/hypervisor_clustering/fault_table.h"
#include "base/log.h"
#include "base/reflect.h"
#include "sim/scenario.h"
#include "sim/swarm.h"

namespace virga {
namespace {

struct Arguments {
  std::vector<std::string> files;
  bool accept = false;
  std::uint64_t seed = 1;
  int seeds = 1;
  int hosts = 20;
  int vms = 60;
  int cluster_hosts = 32;
  double hours = 10.0 / 60.0;
  std::string faults = "swarm";
  std::string codec = "seed";
  bool twice = false;
  bool verbose = false;
  bool journal = false;
  bool fault_table = false;
};

void print_violations(const std::vector<sim::Violation>& violations) {
  for (const sim::Violation& violation : violations) {
    fmt::print("BROKEN RULE {} at {:.3f}s: {}\n", violation.rule,
               static_cast<double>(to_ms(violation.at)) / 1000.0, violation.text);
  }
}

/// The first line in which two texts differ, with both versions.
std::string first_difference(const std::string& expected, const std::string& seen) {
  std::istringstream left(expected);
  std::istringstream right(seen);
  std::string a;
  std::string b;
  for (int line = 1;; ++line) {
    const bool more_a = static_cast<bool>(std::getline(left, a));
    const bool more_b = static_cast<bool>(std::getline(right, b));
    if (!more_a && !more_b) return "no difference";
    if (more_a && more_b && a == b) continue;
    return fmt::format("line {} of the journal:\n  expected: {}\n  seen:     {}", line,
                       more_a ? a : "(end)", more_b ? b : "(end)");
  }
}

int play_file(const std::string& path, bool accept) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) {
    fmt::print(stderr, "read scenario {}: cannot be read\n", path);
    return 2;
  }
  const auto scenario = sim::parse_scenario(text.str());
  if (!scenario) {
    fmt::print(stderr, "{}: {}\n", path, scenario.error().text());
    return 2;
  }
  const sim::Rehearsal rehearsal = sim::play(*scenario);
  const bool same = rehearsal.journal == scenario->expected;
  fmt::print("{} {} hash {:016x}\n",
             rehearsal.violations.empty() && (same || accept) ? "ok  " : "FAIL", path,
             rehearsal.hash);
  print_violations(rehearsal.violations);
  if (!same && !accept) {
    fmt::print("{}\n", first_difference(scenario->expected, rehearsal.journal));
  }
  if (!same && accept) {
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out << scenario->head << (scenario->head.ends_with("----\n") ? "" : "----\n")
        << rehearsal.journal;
    if (!out.flush()) {
      fmt::print(stderr, "write scenario {}: cannot be written\n", path);
      return 2;
    }
  }
  return rehearsal.violations.empty() && (same || accept) ? 0 : 1;
}

bool run_seed(const Arguments& arguments, std::uint64_t seed) {
  sim::SwarmOptions options;
  options.seed = seed;
  options.hosts = arguments.hosts;
  options.vms = arguments.vms;
  options.cluster_hosts = arguments.cluster_hosts;
  options.length = seconds(static_cast<std::int64_t>(arguments.hours * 3600.0));
  options.faults = arguments.faults == "swarm";
  if (arguments.codec != "seed") options.codec = arguments.codec == "on";
  options.journal = arguments.journal;
  fmt::print("seed {} hosts {} vms {} seconds {} faults {}\n", seed, options.hosts, options.vms,
             to_ms(options.length) / 1000, arguments.faults);
  std::fflush(stdout);
  const std::clock_t began = std::clock();
  const sim::SwarmOutcome outcome = sim::run_swarm(options);
  const double took = static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC;
  fmt::print("{}", outcome.journal);
  if (arguments.verbose || !outcome.violations.empty()) {
    for (const std::string& fault : outcome.faults) fmt::print("{}\n", fault);
  }
  print_violations(outcome.violations);
  bool good = outcome.violations.empty();
  if (arguments.twice) {
    const std::uint64_t again = sim::run_swarm(options).hash;
    if (again != outcome.hash) {
      fmt::print("NOT REPEATABLE: the second run's hash is {:016x}\n", again);
      good = false;
    }
  }
  fmt::print(
      "{} tasks, {} messages, {} datagrams, {} events, settled after {} s, {:.2f} s of processor "
      "time\n",
      outcome.tasks, outcome.messages, outcome.datagrams, outcome.events,
      to_ms(outcome.settled_after) / 1000, took);
  fmt::print("seed {} hash {:016x} {}\n", seed, outcome.hash, good ? "ok" : "FAIL");
  return good;
}

int print_fault_table() {
  for (const FaultRow& row : fault_table()) fmt::print("{}\n", to_json_text(row));
  return 0;
}

void describe(CLI::App& app, Arguments& arguments) {
  app.add_option("scenarios", arguments.files, "scenario files (*.scn) to play");
  app.add_flag("--fault-table", arguments.fault_table,
               "print, as JSON, what becomes of a VM at every fault of its host, and do no more");
  app.add_flag("--accept", arguments.accept, "write what was seen as the expected journal");
  app.add_option("--seed", arguments.seed, "seed of the first random life");
  app.add_option("--seeds", arguments.seeds, "how many seeds, counting up")
      ->check(CLI::Range(1, 1'000'000));
  app.add_option("--hosts", arguments.hosts)->check(CLI::Range(1, 10'000));
  app.add_option("--vms", arguments.vms)->check(CLI::Range(0, 100'000));
  app.add_option("--cluster-hosts", arguments.cluster_hosts, "hosts of one cluster")
      ->check(CLI::Range(1, 1000));
  app.add_option("--hours", arguments.hours, "virtual time")->check(CLI::Range(0.001, 10'000.0));
  app.add_option("--faults", arguments.faults)->check(CLI::IsMember({"swarm", "none"}));
  app.add_option("--codec", arguments.codec, "messages as text, as on a real wire")
      ->check(CLI::IsMember({"on", "off", "seed"}));
  app.add_flag("--twice", arguments.twice, "run each seed twice and compare the hashes");
  app.add_flag("--journal", arguments.journal, "print the journal of each seed");
  app.add_flag("--verbose", arguments.verbose, "print the faults also when no rule was broken");
}

void drop_line(LogLevel, std::string_view, std::string_view) {}

}  // namespace

int sim_main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("rehearse a cloud in virtual time", "virgad sim");
  describe(app, arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  set_log_sink(drop_line);
  if (arguments.fault_table) return print_fault_table();
  int result = 0;
  for (const std::string& file : arguments.files) {
    result = std::max(result, play_file(file, arguments.accept));
  }
  if (!arguments.files.empty()) return result;
  for (int number = 0; number < arguments.seeds; ++number) {
    if (!run_seed(arguments, arguments.seed + static_cast<std::uint64_t>(number))) result = 1;
  }
  return result;
}

}  // namespace virga
