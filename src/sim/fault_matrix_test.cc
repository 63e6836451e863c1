#include "sim/fault_matrix.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "base/log.h"

namespace virga::sim {
namespace {

void drop_line(LogLevel, std::string_view, std::string_view) {}

class FaultMatrix : public testing::Test {
 protected:
  void SetUp() override { set_log_sink(drop_line); }
  void TearDown() override { set_log_sink(nullptr); }

  /// All of them, with a failure for each sentence that is wrong.
  static std::vector<FaultOutcome> play_all(const std::vector<FaultCase>& cases) {
    std::vector<FaultOutcome> outcomes;
    std::map<std::string, int> counts;
    for (const FaultCase& fault : cases) {
      FaultOutcome outcome = play(fault);
      for (const std::string& one : outcome.wrong) ADD_FAILURE() << name_of(fault) << ": " << one;
      if (!outcome.wrong.empty())
        std::printf("%s\n%s\n", name_of(fault).c_str(), outcome.journal.c_str());
      for (const std::string& kind : outcome.kinds) ++counts[kind];
      outcomes.push_back(std::move(outcome));
    }
    for (const char* kind :
         {"vm.moved", "vm.move_failed", "vm.fenced", "host.fenced", "vm.disk_moved",
          "vm.disk_move_failed", "volume.degraded", "service.relocated"}) {
      std::printf("%s in %d of %zu\n", kind, counts[kind], cases.size());
      EXPECT_GT(counts[kind], 0) << "no case came to " << kind;
    }
    return outcomes;
  }
};

TEST_F(FaultMatrix, R_F1_its_part_by_pairs_leaves_nothing_of_it_out) {
  const auto all = fault_matrix();
  const auto some = pairwise(all);
  EXPECT_LT(some.size() * 4, all.size());
  using Meeting = std::set<std::string>;
  const auto meetings = [](const std::vector<FaultCase>& cases) {
    std::set<Meeting> met;
    for (const FaultCase& fault : cases) {
      const std::string story = std::string(enum_name(fault.story)) + "/" +
                                std::string(enum_name(fault.disks));
      const std::string phase(enum_name(fault.phase));
      met.insert({story, trouble_of(fault)});
      met.insert({story, phase});
      met.insert({phase, trouble_of(fault)});
    }
    return met;
  };
  EXPECT_EQ(meetings(some), meetings(all));
  std::set<std::string> names;
  for (const FaultCase& fault : all) names.insert(name_of(fault));
  EXPECT_EQ(names.size(), all.size());
}

/// With VIRGA_MATRIX=all every case there is: `scripts/soak matrix`.
TEST_F(FaultMatrix, R_F1_R_F2_R_F3_R_F4_every_fault_at_every_phase_of_every_move_and_of_a_fence) {
  if (std::getenv("VIRGA_MATRIX") != nullptr) {
    play_all(fault_matrix());
    return;
  }
  const auto cases = pairwise(fault_matrix());
  const std::string made = fault_matrix_markdown(cases, play_all(cases));
  const std::string path = VIRGA_SOURCE_DIR "/docs/reference/fault-matrix.md";
  if (std::getenv("VIRGA_ACCEPT") != nullptr) std::ofstream(path) << made;
  std::stringstream kept;
  kept << std::ifstream(path).rdbuf();
  EXPECT_EQ(kept.str(), made) << "run with VIRGA_ACCEPT=1 and commit the file";
}

}  // namespace
}  // namespace virga::sim
