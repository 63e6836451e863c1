#include "sim/sim_main.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "../tests/tools/temp_folder.h"
#include "base/log.h"

namespace virga {
namespace {

const std::string kHead = "hosts 3\nvms 3 tenant acme\nrun 10s\n";

/// `virgad sim` as a user calls it, on files of a folder of its own.
class SimMain : public testing::Test {
 protected:
  struct Run {
    int code = -1;
    std::string out;
    std::string err;
  };

  void TearDown() override { set_log_sink(nullptr); }  // what it runs writes no log

  static Run run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "sim");
    std::vector<char*> words;
    for (std::string& each : arguments) words.push_back(each.data());
    words.push_back(nullptr);
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    Run ended;
    ended.code = sim_main(static_cast<int>(arguments.size()), words.data());
    ended.out = testing::internal::GetCapturedStdout();
    ended.err = testing::internal::GetCapturedStderr();
    return ended;
  }

  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_.file(name), std::ios::binary) << text;
    return folder_.file(name);
  }
  static std::string read(const std::string& path) {
    std::stringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }

  test::TempFolder folder_;
};

TEST_F(SimMain, F_B12_a_journal_that_differs_fails_and_says_where) {
  const std::string text = kHead + "----\nnothing happens\n";
  const std::string file = write("a.scn", text);
  const Run differs = run({file});
  EXPECT_EQ(differs.code, 1);
  EXPECT_TRUE(differs.out.starts_with("FAIL " + file)) << differs.out;
  const auto told =
      differs.out.find("line 1 of the journal:\n  expected: nothing happens\n  seen: ");
  ASSERT_NE(told, std::string::npos) << differs.out;
  EXPECT_NE(differs.out.find("host.alive", told), std::string::npos) << differs.out;
  EXPECT_EQ(read(file), text) << "nobody has asked for another";
}

TEST_F(SimMain, F_B12_accept_writes_what_was_seen_and_from_then_on_it_is_expected) {
  for (const std::string expected : {"----\nnothing happens\n", ""}) {
    const std::string file = write("a.scn", kHead + expected);
    const Run accepted = run({file, "--accept"});
    EXPECT_EQ(accepted.code, 0);
    EXPECT_TRUE(accepted.out.starts_with("ok   " + file)) << accepted.out;
    EXPECT_EQ(accepted.out.find("expected:"), std::string::npos) << accepted.out;
    const std::string text = read(file);
    EXPECT_TRUE(text.starts_with(kHead + "----\n")) << text;
    EXPECT_EQ(text.find("nothing happens"), std::string::npos) << text;
    EXPECT_NE(text.find("vm.started"), std::string::npos) << text;
    const Run again = run({file});
    EXPECT_EQ(again.code, 0) << again.out;
    EXPECT_TRUE(again.out.starts_with("ok   " + file)) << again.out;
    EXPECT_EQ(read(file), text);
  }
}

TEST_F(SimMain, F_B12_accept_takes_no_broken_rule) {
  const std::string file = write("a.scn", "hosts 3\nbreaks two_places\nrun 10s\n----\n");
  for (const auto& arguments : {std::vector{file, std::string("--accept")}, std::vector{file}}) {
    const Run broken = run(arguments);
    EXPECT_EQ(broken.code, 1);
    EXPECT_TRUE(broken.out.starts_with("FAIL " + file)) << broken.out;
    EXPECT_NE(broken.out.find("BROKEN RULE two_places"), std::string::npos) << broken.out;
  }
}

TEST_F(SimMain, F_B12_accept_leaves_what_it_cannot_read_and_fails_beside_files_that_are_fine) {
  const std::string fine = write("fine.scn", kHead);
  const std::string missing = folder_.file("missing.scn");
  const Run no_file = run({fine, missing, "--accept"});
  EXPECT_EQ(no_file.code, 2);
  EXPECT_NE(no_file.err.find(missing + ": cannot be read"), std::string::npos) << no_file.err;
  EXPECT_FALSE(std::filesystem::exists(missing));
  EXPECT_NE(read(fine).find("vm.started"), std::string::npos) << "the other one is accepted";
  const std::string senseless = write("senseless.scn", "hosts 3\nrun away\n----\n");
  const Run no_sense = run({senseless, fine, "--accept"});
  EXPECT_EQ(no_sense.code, 2);
  EXPECT_NE(no_sense.err.find(senseless + ": scenario line 2"), std::string::npos) << no_sense.err;
  EXPECT_EQ(read(senseless), "hosts 3\nrun away\n----\n");
}

}  // namespace
}  // namespace virga
