#include "arch/hypervisor_clustering/fault_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "base/log.h"
#include "base/reflect.h"
#include "sim/scenario.h"

namespace virga::sim {
namespace {

const std::string kLost = "host-2";
const std::vector<std::string> kVmsThere = {"acme/vm-2", "acme/vm-5"};

void drop_line(LogLevel, std::string_view, std::string_view) {}

/// One line of a journal: "22.2s vm.placed vm/acme/vm-2 epoch=1.74 host=host-1".
struct Line {
  std::string at, kind, subject;
  std::map<std::string, std::string> facts;
};

std::vector<Line> lines_of(const std::string& journal) {
  std::vector<Line> lines;
  std::istringstream text(journal);
  for (std::string whole; std::getline(text, whole);) {
    std::istringstream words(whole);
    Line line;
    words >> line.at >> line.kind >> line.subject;
    for (std::string word; words >> word;) {
      const std::size_t sign = std::min(word.find('='), word.size());
      line.facts[word.substr(0, sign)] = word.substr(std::min(sign + 1, word.size()));
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

/// The end of a VM as a scenario tells it, as the row of the table that it is.
class Story {
 public:
  Story(const Scenario& scenario, const Rehearsal& rehearsal)
      : scenario_(scenario), rehearsal_(rehearsal), lines_(lines_of(scenario.expected)) {
    std::istringstream head(scenario.head);
    for (std::string line; std::getline(head, line);) {
      if (line.starts_with("at ")) fault_ = line;
    }
  }

  FaultRow row_of(const std::string& vm) const {
    FaultRow row;
    std::istringstream words(fault_);
    std::string word, fault, bmc;
    words >> word >> word >> word >> word >> fault >> word >> bmc;
    std::replace(fault.begin(), fault.end(), '-', '_');
    EXPECT_TRUE(boost::describe::enum_from_string(fault.c_str(), row.fault)) << fault_;
    EXPECT_TRUE(boost::describe::enum_from_string(bmc.c_str(), row.bmc)) << fault_;
    row.storage = storage(vm);
    row.dead = find("host.dead", "host/" + kLost) != nullptr;
    row.ended_by = ended_by(vm);
    row.restart = restart(vm);
    row.meets = meets(vm);
    tell_proof(vm, row);
    return row;
  }

 private:
  StorageConduct storage(const std::string& vm) const {
    for (const ScenarioVm& one : scenario_.vms) {
      if (one.id.value == vm && !one.volume.empty()) return StorageConduct::volumes;
    }
    return scenario_.cloud.world.image_locks ? StorageConduct::locks : StorageConduct::none;
  }

  static bool is_restart(const Line& line, const std::string& vm) {
    return line.kind == "vm.placed" && line.subject == "vm/" + vm &&
           line.facts.contains("lost_host");
  }

  const Line* find(const std::string& kind, const std::string& subject) const {
    for (const Line& line : lines_) {
      if (line.kind == kind && line.subject == subject) return &line;
    }
    return nullptr;
  }

  bool says(const std::string& line) const {
    return ("\n" + scenario_.expected).find("\n" + line + "\n") != std::string::npos;
  }

  /// Every start after the fault names the lost copy with one and the same proof.
  void tell_proof(const std::string& vm, FaultRow& row) const {
    std::set<std::string> proofs;
    for (const Line& line : lines_) {
      if (is_restart(line, vm)) proofs.insert(line.facts.at("proof"));
    }
    ASSERT_EQ(proofs.size(), 1U) << vm;
    EXPECT_TRUE(boost::describe::enum_from_string(proofs.begin()->c_str(), row.proof));
  }

  CopyEnd ended_by(const std::string& vm) const {
    const auto& ended = rehearsal_.ended;
    const auto first = std::find_if(ended.begin(), ended.end(), [&](const EndedCopy& copy) {
      return copy.vm.value == vm && copy.host.value == kLost;
    });
    EXPECT_NE(first, ended.end()) << vm;
    if (first == ended.end()) return CopyEnd::fault;
    static const std::map<std::string, CopyEnd> kEnds = {
        {kPowerLost, CopyEnd::fault}, {"process killed", CopyEnd::fault},
        {kSwitchedOff, CopyEnd::bmc}, {"stopped", CopyEnd::lease},
        {kReset, CopyEnd::watchdog},  {"killed by the leash", CopyEnd::lease}};
    EXPECT_TRUE(kEnds.contains(first->why)) << first->why;
    return kEnds.at(first->why);
  }

  RestartPlace restart(const std::string& vm) const {
    bool back = false;
    for (const Line& line : lines_) {
      back = back || (line.kind == "host.alive" && line.facts.at("before") == "dead");
      if (is_restart(line, vm)) break;
    }
    if (back) return RestartPlace::after_boot;
    const bool here = says("truth vm " + vm + " running on " + kLost + " answers");
    return here ? RestartPlace::in_place : RestartPlace::elsewhere;
  }

  /// play() has seen to it that a rule is broken exactly where the scenario announces it.
  NewCopyMeets meets(const std::string& vm) const {
    if (!scenario_.breaks.empty()) return NewCopyMeets::old_copy;
    for (const Line& line : lines_) {
      if (line.kind != "vm.start_failed" || line.subject != "vm/" + vm) continue;
      if (line.facts.at("error_code") == "conflict") return NewCopyMeets::lock;
    }
    return NewCopyMeets::nothing;
  }

  const Scenario& scenario_;
  const Rehearsal& rehearsal_;
  std::vector<Line> lines_;
  std::string fault_;
};

class FaultTableScenarios : public testing::Test {
 protected:
  void SetUp() override { set_log_sink(drop_line); }
  void TearDown() override { set_log_sink(nullptr); }

  /// The scenarios of the table by the name of their row: those that begin with 0 to 6, or v.
  static std::map<std::string, std::filesystem::path> files() {
    std::map<std::string, std::filesystem::path> found;
    const std::filesystem::path folder = VIRGA_SCENARIOS "/hypervisor_clustering";
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string name = entry.path().stem().string();
      if ((name[0] < '0' || name[0] > '6') && name[0] != 'v') continue;
      EXPECT_TRUE(found.emplace(name.substr(3), entry.path()).second) << name;
    }
    return found;
  }

  static std::string read_text(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  static void expect_row(const FaultRow& row, const std::filesystem::path& file) {
    const auto scenario = parse_scenario(read_text(file));
    ASSERT_TRUE(scenario.ok()) << scenario.error().text();
    const Rehearsal rehearsal = play(*scenario);
    EXPECT_EQ(rehearsal.journal, scenario->expected);
    for (const Violation& broken : rehearsal.violations) {
      ADD_FAILURE() << broken.rule << ": " << broken.text;
    }
    const Story story(*scenario, rehearsal);
    for (const std::string& vm : kVmsThere) {
      FaultRow seen = story.row_of(vm);
      seen.lab = row.lab;  // nothing of a scenario
      EXPECT_EQ(to_json_text(seen), to_json_text(row)) << vm;
    }
    for (int number = 1; number <= 6; ++number) {
      expect_one_copy(scenario->expected, "acme/vm-" + std::to_string(number));
    }
  }

  /// At the end it runs in one place and answers.
  static void expect_one_copy(const std::string& journal, const std::string& vm) {
    for (const char* host : {"host-1", "host-2", "host-3"}) {
      const std::string truth = "truth vm " + vm + " running on " + host + " answers\n";
      if (journal.find(truth) != std::string::npos) return;
    }
    ADD_FAILURE() << vm << " does not run in one place and answer";
  }
};

TEST_F(FaultTableScenarios, A1_06_A1_09_F_B7_each_row_has_a_scenario_that_ends_as_it_says) {
  auto left = files();
  for (const FaultRow& row : fault_table()) {
    const std::string name = name_of(row);
    SCOPED_TRACE(name);
    const auto file = left.find(name);
    ASSERT_NE(file, left.end()) << "no scenario";
    expect_row(row, file->second);
    left.erase(file);
  }
  for (const auto& [name, path] : left) ADD_FAILURE() << path << " is no row of the table";
}

}  // namespace
}  // namespace virga::sim
