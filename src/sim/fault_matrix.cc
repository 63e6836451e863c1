#include "sim/fault_matrix.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace virga::sim {
namespace {

constexpr std::array kStories = {
    std::pair{Story::vm_moves, Disks::files},
    std::pair{Story::vm_moves, Disks::volume},
    std::pair{Story::vm_moves, Disks::mirrored},
    std::pair{Story::vm_is_fenced, Disks::files},
    std::pair{Story::vm_is_fenced, Disks::volume},
    std::pair{Story::vm_is_fenced, Disks::mirrored},
    std::pair{Story::volume_moves, Disks::volume},
    std::pair{Story::service_relocates, Disks::files},
};
constexpr std::array kPhases = {Phase::before, Phase::under_way, Phase::hand_over, Phase::after};
constexpr int kTroubles = static_cast<int>(Trouble::silence_back) + 1;
constexpr int kParties = static_cast<int>(Party::peer) + 1;

bool has_storage(Story story, Disks disks) {
  return disks != Disks::files || story == Story::service_relocates;
}

/// What of the story's parties can have this trouble.
bool can_be(const FaultCase& fault) {
  const auto is = [&](Party party) { return fault.one == party || fault.other == party; };
  if (is(Party::storage) && !has_storage(fault.story, fault.disks)) return false;
  if (fault.silence()) return fault.one < fault.other;
  if (fault.other != fault.one) return false;
  switch (fault.trouble) {
    case Trouble::killed_server:
      return fault.one == Party::server;
    case Trouble::killed_qemu:  // that of the destination is there from some moment on
      return fault.one == Party::source ||
             (fault.one == Party::destination && fault.phase >= Phase::hand_over &&
              (fault.story == Story::vm_moves || fault.story == Story::vm_is_fenced));
    case Trouble::killed_volume_server:
      return fault.one == Party::storage && fault.disks != Disks::files;
    case Trouble::killed_balancer:
      return fault.one == Party::storage && fault.story == Story::service_relocates;
    case Trouble::killed_leash:
      return fault.one == Party::source || fault.one == Party::destination;
    default:
      return fault.one != Party::server && fault.one != Party::peer;
  }
}

/// Nothing lasts of these but what they leave behind.
bool at_once(Trouble trouble) {
  return trouble == Trouble::killed_qemu || trouble == Trouble::killed_volume_server ||
         trouble == Trouble::killed_balancer;
}

/// With each length and each state of the BMCs.
void add_cases(FaultCase fault, std::vector<FaultCase>& all) {
  if (!can_be(fault)) return;
  for (const Duration length : {seconds(8), seconds(60)}) {
    if (length > seconds(8) && at_once(fault.trouble)) continue;
    for (const bool bmcs : {true, false}) {
      fault.length = length;
      fault.bmcs = bmcs;
      all.push_back(fault);
    }
  }
}

void add_troubles(FaultCase fault, std::vector<FaultCase>& all) {
  for (int number = 0; number < kTroubles * kParties * kParties; ++number) {
    fault.trouble = static_cast<Trouble>(number / kParties / kParties);
    fault.one = static_cast<Party>(number / kParties % kParties);
    fault.other = static_cast<Party>(number % kParties);
    add_cases(fault, all);
  }
}

std::string_view bmcs_of(const FaultCase& fault) {
  return fault.bmcs ? "answer" : "silent";
}

/// What of a case has to meet what else of it.
using Pair = std::pair<std::string, std::string>;
std::vector<Pair> pairs_of(const FaultCase& fault) {
  const std::array<std::string, 5> values = {
      fmt::format("{} {}", enum_name(fault.story), enum_name(fault.disks)), trouble_of(fault),
      std::string(enum_name(fault.phase)), fmt::format("{} s", to_ms(fault.length) / 1000),
      std::string(bmcs_of(fault))};
  std::vector<Pair> pairs;
  for (std::size_t one = 0; one < values.size(); ++one) {
    for (std::size_t other = one + 1; other < values.size(); ++other)
      pairs.emplace_back(values[one], values[other]);
  }
  return pairs;
}

/// Of an event's kind; empty = not of interest here.
std::string_view outcome_of(std::string_view kind) {
  static const std::map<std::string_view, std::string_view> words = {
      {"vm.moved", "moved"},
      {"vm.move_failed", "move given up"},
      {"vm.fenced", "cut off by its storage"},
      {"vm.ended", "guest ended"},
      {"vm.placed", "started anew"},
      {"vm.disk_moved", "volume moved"},
      {"vm.disk_move_failed", "move of the volume given up"},
      {"vm.disk_mirrored", "written to two places again"},
      {"volume.degraded", "volume in one place"},
      {"host.fenced", "host fenced"},
      {"service.relocated", "relocated"},
  };
  const auto found = words.find(kind);
  return found == words.end() ? std::string_view() : found->second;
}

constexpr const char* kIntroduction = R"(# What may go wrong while something moves

Written by `sim_fault_matrix_test` (`VIRGA_ACCEPT=1`); do not edit. Each row was played in the
simulator with the programs' own cores: a fault at a phase of a move or of a fence, until all was
settled. After each of them the guest runs in one place, no write that was acknowledged is missing,
nobody else may write to its volumes, nothing is left of a place that was given up, and no safety
rule was broken. `src/sim/fault_matrix.h` says what the words mean.

In these rows each story with its disks meets each fault and each phase, each fault each phase, and
each of these each length and each state of the BMCs. `scripts/soak matrix` plays all combinations.
The same faults with real guests, real volumes and a real HAProxy stand in
[coverage-issue.md](../coverage-issue.md) under R-F1 to R-F5.

| story | disks | phase | fault | for | BMCs | came to |
|---|---|---|---|---|---|---|
)";

}  // namespace

std::string trouble_of(const FaultCase& fault) {
  if (fault.trouble == Trouble::killed_server) return std::string(enum_name(fault.trouble));
  const std::string there = fmt::format("{} of {}", enum_name(fault.trouble), enum_name(fault.one));
  return fault.silence() ? fmt::format("{} and {}", there, enum_name(fault.other)) : there;
}

std::string name_of(const FaultCase& fault) {
  return fmt::format("{} {} {}: {} for {} s{}", enum_name(fault.story), enum_name(fault.disks),
                     enum_name(fault.phase), trouble_of(fault), to_ms(fault.length) / 1000,
                     fault.bmcs ? "" : ", BMCs silent");
}

std::vector<FaultCase> fault_matrix() {
  std::vector<FaultCase> all;
  for (const auto& [story, disks] : kStories) {
    for (const Phase phase : kPhases) add_troubles({story, disks, phase}, all);
  }
  return all;
}

std::vector<FaultCase> pairwise(const std::vector<FaultCase>& all) {
  std::map<Pair, std::size_t> numbers;
  std::vector<std::vector<std::size_t>> pairs;
  for (const FaultCase& fault : all) {
    auto& own = pairs.emplace_back();
    for (Pair& pair : pairs_of(fault))
      own.push_back(numbers.emplace(std::move(pair), numbers.size()).first->second);
  }
  std::vector<bool> open(numbers.size(), true);
  const auto gain = [&](std::size_t at) {
    return std::ranges::count_if(pairs[at], [&](std::size_t pair) { return open[pair]; });
  };
  std::vector<std::size_t> chosen;
  while (std::ranges::find(open, true) != open.end()) {
    std::size_t best = 0;
    for (std::size_t at = 1; at < all.size(); ++at) {
      if (gain(at) > gain(best)) best = at;
    }
    chosen.push_back(best);
    for (const std::size_t pair : pairs[best]) open[pair] = false;
  }
  std::ranges::sort(chosen);
  std::vector<FaultCase> some;
  for (const std::size_t at : chosen) some.push_back(all[at]);
  return some;
}

std::string fault_matrix_markdown(const std::vector<FaultCase>& cases,
                                  const std::vector<FaultOutcome>& outcomes) {
  std::string text = kIntroduction;
  for (std::size_t at = 0; at < cases.size(); ++at) {
    const FaultCase& fault = cases[at];
    std::vector<std::string_view> words;
    for (const std::string& kind : outcomes[at].kinds) {
      if (const auto word = outcome_of(kind); !word.empty()) words.push_back(word);
    }
    if (words.empty()) words.emplace_back("nothing");
    std::string row = fmt::format("| {} | {} | {} | {} | {} s | {} | {} |\n",
                                  enum_name(fault.story), enum_name(fault.disks),
                                  enum_name(fault.phase), trouble_of(fault),
                                  to_ms(fault.length) / 1000, bmcs_of(fault),
                                  fmt::join(words, ", "));
    std::ranges::replace(row, '_', ' ');
    text += row;
  }
  return text;
}

}  // namespace virga::sim
