#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "driver/bmc.h"

/// What every Bmc must do. A test program includes this and instantiates BmcContract with a maker of benches:
///   INSTANTIATE_TEST_SUITE_P(Redfish, BmcContract, testing::Values([] { return ...; }));
namespace virga {

enum class BenchMode { answers, silent, lies, slow };

/// One implementation with one machine behind it, and the time that it lives in.
class BmcBench {
 public:
  virtual ~BmcBench() = default;
  virtual Bmc& bmc() = 0;
  virtual Machine machine() const = 0;
  virtual void set_mode(BenchMode mode) = 0;
  virtual bool really_on() const = 0;
  virtual void set_really_on(bool on) = 0;
  virtual Instant now() const = 0;
  /// Runs the loop until the condition holds; false after 60 s.
  virtual bool until(const std::function<bool()>& condition) = 0;
};

class BmcContract : public testing::TestWithParam<std::function<std::unique_ptr<BmcBench>()>> {
 protected:
  void SetUp() override { bench_ = GetParam()(); }

  Result<MachinePower> ask(const Machine& machine) {
    std::optional<Result<MachinePower>> answer;
    bench_->bmc().power(machine, [&](Result<MachinePower> got) { answer = std::move(got); });
    EXPECT_FALSE(answer.has_value()) << "completed before the call returned";
    EXPECT_TRUE(bench_->until([&] { return answer.has_value(); }));
    return answer ? *answer : make_error(Errc::internal, "never completed");
  }
  Result<MachinePower> ask() { return ask(bench_->machine()); }

  Result<void> set(MachinePower to) {
    std::optional<Result<void>> answer;
    bench_->bmc().set_power(bench_->machine(), to, [&](Result<void> got) { answer = got; });
    EXPECT_TRUE(bench_->until([&] { return answer.has_value(); }));
    return answer ? *answer : make_error(Errc::internal, "never completed");
  }

  std::unique_ptr<BmcBench> bench_;
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BmcContract);

TEST_P(BmcContract, F_B10_reads_the_power_that_the_machine_really_has) {
  bench_->set_really_on(true);
  auto power = ask();
  ASSERT_TRUE(power.ok()) << power.error().text();
  EXPECT_EQ(*power, MachinePower::on);
  bench_->set_really_on(false);
  power = ask();
  ASSERT_TRUE(power.ok()) << power.error().text();
  EXPECT_EQ(*power, MachinePower::off);
}

TEST_P(BmcContract, F_B10_switches_and_completes_when_the_machine_is_in_that_state) {
  bench_->set_really_on(true);
  for (const MachinePower to :
       {MachinePower::off, MachinePower::off, MachinePower::on, MachinePower::on}) {
    const auto done = set(to);
    ASSERT_TRUE(done.ok()) << done.error().text();
    EXPECT_EQ(bench_->really_on(), to == MachinePower::on);
  }
}

TEST_P(BmcContract, F_B10_a_silent_controller_ends_as_timeout_within_its_deadlines) {
  bench_->set_really_on(true);
  bench_->set_mode(BenchMode::silent);
  Machine other = bench_->machine();
  other.meta.name += "-b";
  std::optional<Result<void>> switched;
  const Instant begin = bench_->now();
  bench_->bmc().set_power(other, MachinePower::off, [&](Result<void> got) { switched = got; });
  const auto power = ask();
  ASSERT_FALSE(power.ok());
  EXPECT_EQ(power.error().code, Errc::timeout) << power.error().text();
  EXPECT_GE(bench_->now() - begin, milliseconds(4900));
  EXPECT_LE(bench_->now() - begin, seconds(7));
  ASSERT_TRUE(bench_->until([&] { return switched.has_value(); }));
  ASSERT_FALSE(switched->ok());
  EXPECT_EQ(switched->error().code, Errc::timeout) << switched->error().text();
  EXPECT_GE(bench_->now() - begin, milliseconds(14900));
  EXPECT_LE(bench_->now() - begin, seconds(17));
  EXPECT_TRUE(bench_->really_on());
}

TEST_P(BmcContract, F_B10_a_lying_controller_is_believed_because_only_the_host_can_contradict_it) {
  bench_->set_really_on(true);
  bench_->set_mode(BenchMode::lies);
  ASSERT_TRUE(set(MachinePower::off).ok());
  EXPECT_TRUE(bench_->really_on());
  const auto power = ask();
  ASSERT_TRUE(power.ok());
  EXPECT_EQ(*power, MachinePower::off);
}

TEST_P(BmcContract, F_B10_a_slow_controller_switches_within_15_s) {
  bench_->set_really_on(true);
  bench_->set_mode(BenchMode::slow);
  const Instant begin = bench_->now();
  const auto done = set(MachinePower::off);
  ASSERT_TRUE(done.ok()) << done.error().text();
  EXPECT_FALSE(bench_->really_on());
  EXPECT_GE(bench_->now() - begin, seconds(1));
}

TEST_P(BmcContract, commands_of_one_machine_run_in_order_and_the_tenth_is_refused) {
  bench_->set_really_on(true);
  std::vector<int> completed;
  std::vector<Errc> errors;
  for (int number = 0; number < 10; ++number) {
    const MachinePower to = number % 2 == 0 ? MachinePower::off : MachinePower::on;
    bench_->bmc().set_power(bench_->machine(), to, [&, number](Result<void> got) {
      if (got)
        completed.push_back(number);
      else
        errors.push_back(got.error().code);
    });
  }
  ASSERT_TRUE(bench_->until([&] { return completed.size() + errors.size() == 10; }));
  EXPECT_EQ(completed, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(errors, std::vector<Errc>{Errc::exhausted});
  EXPECT_TRUE(!bench_->really_on());
}

TEST_P(BmcContract, a_machine_without_a_controller_is_unavailable) {
  Machine machine = bench_->machine();
  machine.spec.bmc.protocol = BmcProtocol::none;
  const auto power = ask(machine);
  ASSERT_FALSE(power.ok());
  EXPECT_EQ(power.error().code, Errc::unavailable);
}

TEST_P(BmcContract, a_wrong_password_is_told_apart) {
  Machine machine = bench_->machine();
  machine.spec.bmc.password += "x";
  const auto power = ask(machine);
  ASSERT_FALSE(power.ok());
  EXPECT_EQ(power.error().code, Errc::unauthenticated);
}

}  // namespace virga
