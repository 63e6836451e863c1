#include "agent/balancers.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/reflect.h"
#include "driver/null_fabric.h"
#include "sim/sim_loop.h"

namespace virga {
namespace {

/// A balancer whose answers the test gives.
class HeldBalancer : public LoadBalancer {
 public:
  explicit HeldBalancer(int& alive) : alive_(alive) { ++alive_; }
  ~HeldBalancer() override { --alive_; }

  void open(Callback<void> done) override { asked.emplace_back("open", std::move(done)); }
  void apply(const BalancerSpec& wanted, Callback<void> done) override {
    spec = wanted;
    asked.emplace_back("apply", std::move(done));
  }
  std::uint64_t revision() const override { return spec.revision; }
  void observe(Callback<ObservedBalancer> done) override { looks.push_back(std::move(done)); }
  void remove(Callback<void> done) override { asked.emplace_back("remove", std::move(done)); }

  std::vector<std::pair<std::string, Callback<void>>> asked;
  std::vector<Callback<ObservedBalancer>> looks;
  BalancerSpec spec;

 private:
  int& alive_;
};

/// Remembers in memory.
class Home : public BalancerHome {
 public:
  std::unique_ptr<LoadBalancer> make(const ServiceId& service, const std::string&) override {
    auto made = std::make_unique<HeldBalancer>(alive);
    drivers[service] = made.get();
    return made;
  }
  std::map<ServiceId, BalancerLeg> remembered() override { return legs; }
  Result<void> remember(const ServiceId& service, const BalancerLeg& leg) override {
    if (remembers) legs[service] = leg;
    return remembers;
  }
  Result<void> forget(const ServiceId& service) override {
    legs.erase(service);
    return {};
  }

  int alive = 0;
  std::map<ServiceId, HeldBalancer*> drivers;
  std::map<ServiceId, BalancerLeg> legs;
  Result<void> remembers;
};

BalancerLeg leg_of(int last) {
  return {1001, "52:54:00:00:00:0a", "10.50.0." + std::to_string(last) + "/24", 1450};
}

BalancerSpec spec_of(std::uint64_t revision, std::size_t servers = 1) {
  BalancerSpec spec;
  spec.revision = revision;
  BalancerPool& pool = spec.pools.emplace_back();
  pool.name = "web";
  for (std::size_t index = 0; index < servers; ++index) {
    BalancerServer& server = pool.servers.emplace_back();
    server.name = "s" + std::to_string(index);
    server.address = "10.50.0.20";
    server.port = 80;
  }
  return spec;
}

class BalancersTest : public ::testing::Test {
 protected:
  std::size_t send(CommandKind kind, const std::string& service = "acme/web",
                   BalancerSpec spec = spec_of(1)) {
    Command command;
    command.kind = kind;
    command.balancer = BalancerCommand{ServiceId(service), leg_of(10), std::move(spec)};
    answers_.emplace_back();
    EXPECT_TRUE(balancers_->execute(command, [this, at = answers_.size() - 1](auto answer) {
      EXPECT_FALSE(answers_[at].has_value()) << "answered twice";
      answers_[at] = std::move(answer);
    }));
    loop_.run_for(milliseconds(1));
    return answers_.size() - 1;
  }
  std::size_t apply(std::uint64_t revision) {
    return send(CommandKind::apply_balancer, "acme/web", spec_of(revision));
  }

  /// "waits", "ok" or the name of the error.
  std::string code(std::size_t call) const {
    if (!answers_.at(call)) return "waits";
    return answers_[call]->ok() ? "ok" : std::string(to_string(answers_[call]->error().code));
  }

  HeldBalancer& driver(const std::string& service = "acme/web") {
    return *home_.drivers.at(ServiceId(service));
  }

  /// Answers the last call of that balancer, which must be this one.
  void answer(const std::string& what, Result<void> result = {}) {
    ASSERT_FALSE(driver().asked.empty());
    EXPECT_EQ(driver().asked.back().first, what);
    driver().asked.back().second(std::move(result));
    loop_.run_for(milliseconds(1));
  }
  void look(std::uint64_t revision, int servers = 1) {
    ObservedBalancer seen;
    seen.revision = revision;
    seen.servers.resize(static_cast<std::size_t>(servers));
    driver().looks.back()(seen);
  }
  void look_fails(const std::string& why) {
    driver().looks.back()(make_error(Errc::unavailable, why));
  }

  ServiceBalancer seen() const {
    const auto all = balancers_->observe();
    return all.size() == 1 ? all[0] : ServiceBalancer{};
  }

  void begin_service() {
    const std::size_t call = apply(1);
    answer("open");
    answer("apply");
    look(1);
    EXPECT_EQ(code(call), "ok");
  }
  void restart_agent() {
    balancers_ = std::make_unique<Balancers>(fabric_, &home_);
    balancers_->start();
    loop_.run_for(milliseconds(1));
  }

  SimLoop loop_;
  NullFabric fabric_{loop_};
  Home home_;
  std::vector<std::optional<Result<CommandResult>>> answers_;
  std::unique_ptr<Balancers> balancers_ = std::make_unique<Balancers>(fabric_, &home_);
};

TEST_F(BalancersTest, R_B6_a_balancer_gets_its_leg_first_and_is_seen_when_its_answer_comes) {
  const std::size_t call = apply(1);
  EXPECT_EQ(fabric_.legs.at(ServiceId("acme/web")), leg_of(10));
  EXPECT_EQ(home_.legs.at(ServiceId("acme/web")), leg_of(10));
  answer("open");
  answer("apply");
  EXPECT_EQ(driver().spec.revision, 1U);
  EXPECT_EQ(code(call), "waits") << "for the look that shows it";
  look(1);
  EXPECT_EQ(code(call), "ok");
  EXPECT_TRUE(seen().running);
  EXPECT_EQ(seen().service, ServiceId("acme/web"));
  EXPECT_EQ(seen().seen.revision, 1U);
  EXPECT_EQ(seen().failing, "");
  const std::size_t next = apply(2);
  answer("apply");
  look(2);
  EXPECT_EQ(code(next), "ok") << "opened once";
  EXPECT_EQ(seen().seen.revision, 2U);
}

TEST_F(BalancersTest, R_B6_what_is_older_than_what_is_in_force_changes_nothing) {
  begin_service();
  const std::size_t newer = apply(5);
  answer("apply");
  look(5);
  ASSERT_EQ(code(newer), "ok");
  fabric_.legs.clear();
  EXPECT_EQ(code(apply(4)), "ok");
  EXPECT_TRUE(fabric_.legs.empty()) << "its leg is not touched";
  EXPECT_EQ(driver().spec.revision, 5U);
}

TEST_F(BalancersTest, R_B6_one_call_at_a_time_for_each_service) {
  const std::size_t first = apply(1);
  EXPECT_EQ(code(apply(2)), "unavailable");
  EXPECT_EQ(code(send(CommandKind::remove_balancer)), "unavailable");
  EXPECT_EQ(code(send(CommandKind::apply_balancer, "acme/db")), "waits") << "another service";
  answer("open");
  answer("apply");
  look(1);
  EXPECT_EQ(code(first), "ok");
  ASSERT_EQ(balancers_->observe().size(), 2U);
  EXPECT_EQ(balancers_->observe()[0].service, ServiceId("acme/db")) << "in order of service";
}

TEST_F(BalancersTest, R_B6_what_is_removed_leaves_nothing) {
  begin_service();
  const std::size_t call = send(CommandKind::remove_balancer);
  EXPECT_TRUE(fabric_.legs.contains(ServiceId("acme/web"))) << "not under its feet";
  answer("remove", make_error(Errc::timeout, "does not end"));
  look(1);
  EXPECT_EQ(code(call), "timeout");
  EXPECT_NE(seen().failing.find("does not end"), std::string::npos);
  EXPECT_TRUE(home_.legs.contains(ServiceId("acme/web"))) << "the next agent must know of it";
  const std::size_t again = send(CommandKind::remove_balancer);
  answer("remove");
  EXPECT_EQ(code(again), "ok");
  EXPECT_TRUE(fabric_.legs.empty());
  EXPECT_TRUE(home_.legs.empty());
  EXPECT_EQ(home_.alive, 0);
  EXPECT_TRUE(balancers_->observe().empty());
  EXPECT_EQ(code(send(CommandKind::remove_balancer)), "ok") << "asked again";
}

TEST_F(BalancersTest, R_B6_what_fails_is_told_and_what_was_in_force_is_still_seen) {
  fabric_.leg_answer = make_error(Errc::not_found, "the network is not on this host");
  const std::size_t call = apply(1);
  look_fails("does not run");
  EXPECT_EQ(code(call), "not_found");
  EXPECT_FALSE(seen().running);
  EXPECT_NE(seen().failing.find("not on this host"), std::string::npos);
  fabric_.leg_answer = {};
  begin_service();
  const std::size_t refused = apply(2);
  answer("apply", make_error(Errc::conflict, "port 80 is taken"));
  look(1);
  EXPECT_EQ(code(refused), "conflict");
  EXPECT_TRUE(seen().running);
  EXPECT_NE(seen().failing.find("port 80"), std::string::npos);
  EXPECT_EQ(seen().seen.revision, 1U);
}

TEST_F(BalancersTest, R_B6_a_look_that_waits_holds_up_neither_heartbeat_nor_change) {
  begin_service();
  const std::size_t before = driver().looks.size();
  for (int beat = 0; beat < 5; ++beat) balancers_->look();
  ASSERT_EQ(driver().looks.size(), before + 1) << "one at a time";
  const auto late = driver().looks.back();
  const std::size_t call = apply(2);
  answer("apply");
  look(2, 3);
  EXPECT_EQ(code(call), "ok");
  ObservedBalancer old;
  old.revision = 1;
  late(old);
  EXPECT_EQ(seen().seen.revision, 2U) << "what was seen before does not replace it";
  EXPECT_EQ(seen().seen.servers.size(), 3U);
  balancers_->look();
  look_fails("no answer within 8 s");
  EXPECT_FALSE(seen().running);
  EXPECT_NE(seen().failing.find("no answer"), std::string::npos);
  EXPECT_TRUE(seen().seen.servers.empty()) << "nobody counts on what is old";
  balancers_->look();
  look(2);
  EXPECT_TRUE(seen().running);
  EXPECT_EQ(seen().failing, "");
}

TEST_F(BalancersTest, R_B6_the_next_agent_goes_on_with_what_is_remembered) {
  begin_service();
  fabric_.legs.clear();
  restart_agent();
  EXPECT_TRUE(fabric_.legs.contains(ServiceId("acme/web"))) << "put right";
  EXPECT_EQ(code(apply(2)), "unavailable") << "it is being opened";
  answer("open");
  look(1);
  EXPECT_TRUE(seen().running);
  EXPECT_EQ(seen().seen.revision, 1U) << "without a word of the server";
  EXPECT_EQ(home_.alive, 1);
}

TEST_F(BalancersTest, R_B6_one_that_cannot_go_on_says_why_until_it_runs) {
  begin_service();
  restart_agent();
  answer("open", make_error(Errc::unavailable, "HAProxy does not start"));
  look_fails("does not run");
  EXPECT_FALSE(seen().running);
  EXPECT_NE(seen().failing.find("does not start"), std::string::npos);
  balancers_->look();
  look(1);
  EXPECT_TRUE(seen().running);
  EXPECT_EQ(seen().failing, "") << "it has come up by itself";
}

TEST_F(BalancersTest, R_B6_one_of_which_only_the_record_is_left_can_be_removed) {
  home_.legs[ServiceId("acme/web")] = leg_of(10);
  fabric_.leg_answer = make_error(Errc::not_found, "the network is not on this host");
  restart_agent();
  look_fails("does not run");
  fabric_.leg_answer = {};
  const std::size_t call = send(CommandKind::remove_balancer);
  answer("open", make_error(Errc::not_found, "no such namespace"));
  answer("remove");
  EXPECT_EQ(code(call), "ok");
  EXPECT_TRUE(home_.legs.empty());
}

TEST_F(BalancersTest, R_B6_a_host_carries_so_many_and_no_more) {
  for (std::size_t index = 0; index < Balancers::kBalancersMax; ++index) {
    EXPECT_EQ(code(send(CommandKind::apply_balancer, "acme/s" + std::to_string(index))), "waits");
  }
  EXPECT_EQ(code(apply(1)), "exhausted");
  balancers_ = std::make_unique<Balancers>(fabric_, &home_);
  for (std::size_t index = 0; index < Balancers::kServersMax / 256; ++index) {
    const std::string service = "acme/s" + std::to_string(index);
    EXPECT_EQ(code(send(CommandKind::apply_balancer, service, spec_of(1, 256))), "waits");
  }
  EXPECT_EQ(code(apply(1)), "exhausted");
}

TEST_F(BalancersTest, R_B6_what_is_wrong_makes_nothing) {
  EXPECT_EQ(code(apply(0)), "invalid");
  home_.remembers = make_error(Errc::exhausted, "disk full");
  EXPECT_EQ(code(apply(1)), "exhausted");
  EXPECT_TRUE(balancers_->observe().empty());
  EXPECT_TRUE(fabric_.legs.empty());
  Balancers none(fabric_, nullptr);
  none.start();
  Command command;
  command.kind = CommandKind::apply_balancer;
  std::vector<Errc> codes;
  const auto note = [&codes](const Result<CommandResult>& answer) {
    codes.push_back(answer ? Errc::internal : answer.error().code);
  };
  EXPECT_TRUE(none.execute(command, note)) << "its balancer is missing";
  command.balancer = BalancerCommand{ServiceId("acme/web"), leg_of(10), spec_of(1)};
  EXPECT_TRUE(none.execute(command, note));
  EXPECT_EQ(codes, (std::vector{Errc::invalid, Errc::unsupported}));
  command.kind = CommandKind::start;
  EXPECT_FALSE(none.execute(command, note)) << "not a command of balancers";
}

TEST_F(BalancersTest, R_B6_a_certificate_is_in_no_report_and_no_error) {
  BalancerSpec spec = spec_of(1);
  BalancerFrontend& frontend = spec.frontends.emplace_back();
  frontend.name = "web";
  frontend.address = "10.50.0.10";
  frontend.port = 443;
  frontend.pool = "web";
  frontend.certificate = "-----BEGIN CERTIFICATE-----\nSECRET\n-----BEGIN PRIVATE KEY-----\nSECRET";
  const std::size_t call = send(CommandKind::apply_balancer, "acme/web", spec);
  answer("open");
  answer("apply");
  look(1);
  ASSERT_EQ(code(call), "ok");
  HostReport report;
  report.balancers = balancers_->observe();
  EXPECT_EQ(to_json_text(report).find("SECRET"), std::string::npos);
  spec.frontends[0].certificate = "SECRET";
  const std::size_t refused = send(CommandKind::apply_balancer, "acme/web", spec);
  ASSERT_EQ(code(refused), "invalid");
  EXPECT_EQ(answers_[refused]->error().text().find("SECRET"), std::string::npos);
}

TEST_F(BalancersTest, R_B6_an_answer_after_its_end_reaches_nobody) {
  const std::size_t call = apply(1);
  const auto late = driver().asked.back().second;
  balancers_.reset();
  late({});
  loop_.run_for(milliseconds(1));
  EXPECT_EQ(code(call), "waits");
  EXPECT_EQ(home_.alive, 0);
}

}  // namespace
}  // namespace virga
