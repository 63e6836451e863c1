#include "agent/gateways.h"

#include <gtest/gtest.h>

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "driver/null_fabric.h"
#include "sim/sim_loop.h"

namespace virga {
namespace {

/// A gateway whose answers the test gives.
class HeldServer : public GatewayServer {
 public:
  explicit HeldServer(int& alive) : alive_(alive) { ++alive_; }
  ~HeldServer() override { --alive_; }
  void open(Callback<void> done) override { asked.emplace_back("open", std::move(done)); }
  void apply(const GatewaySpec& wanted, Callback<void> done) override {
    spec = wanted;
    asked.emplace_back("apply", std::move(done));
  }
  void remove(Callback<void> done) override { asked.emplace_back("remove", std::move(done)); }

  std::vector<std::pair<std::string, Callback<void>>> asked;
  GatewaySpec spec;

 private:
  int& alive_;
};

/// Remembers in memory.
class Home : public GatewayHome {
 public:
  std::unique_ptr<GatewayServer> make(std::uint32_t vni, const std::string&) override {
    auto made = std::make_unique<HeldServer>(alive);
    servers[vni] = made.get();
    return made;
  }
  std::map<std::uint32_t, GatewayNetwork> remembered() override { return networks; }
  Result<void> remember(const GatewayNetwork& network) override {
    networks[network.vni] = network;
    return {};
  }
  Result<void> forget(std::uint32_t vni) override {
    networks.erase(vni);
    return {};
  }

  int alive = 0;
  std::map<std::uint32_t, HeldServer*> servers;
  std::map<std::uint32_t, GatewayNetwork> networks;
};

constexpr std::uint32_t kVni = 1001;

GatewayNetwork network(std::uint32_t vni = kVni) {
  return {vni, "10.50.0.1/24", "front.acme.virga", 1450, true};
}

GatewayMember member(const std::string& name, const std::string& address,
                     std::uint32_t vni = kVni) {
  return {vni, "acme/" + name + "-0", "52:54:00:00:00:0a", address, name};
}

class GatewaysOfAHost : public testing::Test {
 protected:
  FabricGateways whole(std::vector<GatewayNetwork> networks, std::vector<GatewayMember> members) {
    FabricGateways made;
    made.whole = true;
    made.networks = std::move(networks);
    made.members = std::move(members);
    return made;
  }
  FabricGateways members(std::vector<GatewayMember> changed) {
    FabricGateways made;
    made.members = std::move(changed);
    return made;
  }
  void settle() { loop_.run_for(milliseconds(1)); }

  /// Answers what the gateway's server was asked last; what that was.
  std::string answer_next(std::uint32_t vni = kVni, const Result<void>& result = {}) {
    settle();
    HeldServer& server = *home_.servers.at(vni);
    if (server.asked.empty()) return "";
    auto [what, done] = std::move(server.asked.front());
    server.asked.erase(server.asked.begin());
    done(result);
    settle();
    return what;
  }
  std::set<std::string> names(std::uint32_t vni = kVni) const {
    std::set<std::string> found;
    for (const GatewayMember& one : home_.servers.at(vni)->spec.members) found.insert(one.name);
    return found;
  }

  SimLoop loop_;
  NullFabric fabric_{loop_};
  Home home_;
  std::vector<std::string> failures_;
  std::optional<Gateways> gateways_{std::in_place, loop_, fabric_, &home_,
                                    [this](const Error& why) { failures_.push_back(why.text()); }};
};

TEST_F(GatewaysOfAHost, R_B3_what_was_told_is_remembered_made_and_served) {
  gateways_->take(whole({network()}, {member("web", "10.50.0.10")}));
  settle();
  EXPECT_EQ(home_.networks.count(kVni), 1U);
  EXPECT_EQ(fabric_.gateways.at(kVni), network());
  EXPECT_EQ(answer_next(), "open");
  EXPECT_EQ(answer_next(), "apply");
  EXPECT_EQ(names(), std::set<std::string>{"web"});
  EXPECT_EQ(answer_next(), "") << "nothing is left to do";
  EXPECT_TRUE(failures_.empty());
}

TEST_F(GatewaysOfAHost, R_B3_what_is_told_meanwhile_is_the_next_piece_of_work) {
  gateways_->take(whole({network()}, {member("web", "10.50.0.10")}));
  EXPECT_EQ(answer_next(), "open");
  gateways_->take(members({member("db", "10.50.0.11")}));
  gateways_->take(members({member("web", ""), member("app", "10.50.0.12")}));
  EXPECT_EQ(answer_next(), "apply");
  EXPECT_EQ(answer_next(), "apply");
  EXPECT_EQ(names(), (std::set<std::string>{"app", "db"}));
  EXPECT_EQ(answer_next(), "") << "both changes were one piece of work";
}

TEST_F(GatewaysOfAHost, R_B3_a_message_in_parts_counts_when_its_last_is_there) {
  FabricGateways first = whole({network()}, {member("web", "10.50.0.10")});
  first.more = true;
  gateways_->take(first);
  settle();
  EXPECT_TRUE(fabric_.gateways.empty());
  gateways_->take(members({member("db", "10.50.0.11")}));
  EXPECT_EQ(answer_next(), "open");
  EXPECT_EQ(answer_next(), "apply");
  EXPECT_EQ(names(), (std::set<std::string>{"db", "web"}));
  gateways_->take(first);
  gateways_->session_begins();
  gateways_->take(members({member("app", "10.50.0.12")}));
  EXPECT_EQ(answer_next(), "apply");
  EXPECT_EQ(names(), (std::set<std::string>{"app", "db", "web"})) << "half a message is none";
}

TEST_F(GatewaysOfAHost, R_B3_a_gateway_that_goes_is_removed_from_the_inside_outwards) {
  gateways_->take(whole({network()}, {}));
  answer_next();
  answer_next();
  FabricGateways gone;
  gone.gone = {kVni};
  gateways_->take(gone);
  settle();
  EXPECT_EQ(fabric_.gateways.count(kVni), 1U) << "its server still runs in it";
  EXPECT_EQ(answer_next(), "remove");
  EXPECT_TRUE(fabric_.gateways.empty());
  EXPECT_TRUE(home_.networks.empty());
  EXPECT_EQ(home_.alive, 0);
  gateways_->take(whole({network()}, {}));
  EXPECT_EQ(answer_next(), "open") << "it can come back";
}

TEST_F(GatewaysOfAHost, R_B3_one_that_is_wanted_again_while_it_goes_comes_back) {
  gateways_->take(whole({network()}, {}));
  answer_next();
  answer_next();
  gateways_->take(whole({}, {}));
  settle();
  gateways_->take(whole({network()}, {member("web", "10.50.0.10")}));
  EXPECT_EQ(answer_next(), "remove");
  EXPECT_EQ(fabric_.gateways.count(kVni), 1U);
  EXPECT_EQ(answer_next(), "open");
  EXPECT_EQ(answer_next(), "apply");
  EXPECT_EQ(names(), std::set<std::string>{"web"});
}

TEST_F(GatewaysOfAHost, R_B3_what_fails_is_told_once_and_tried_again) {
  fabric_.gateway_answer = make_error(Errc::not_found, "the network is not on this host");
  gateways_->take(whole({network()}, {}));
  settle();
  loop_.run_for(seconds(10));
  EXPECT_TRUE(failures_.empty()) << "no network is known yet";
  fabric_.in_force = 1;
  loop_.run_for(seconds(10));
  ASSERT_EQ(failures_.size(), 1U);
  EXPECT_NE(failures_[0].find("VNI 1001: the network is not on this host"), std::string::npos);
  fabric_.gateway_answer = {};
  loop_.run_for(seconds(3));
  EXPECT_EQ(answer_next(), "open");
  EXPECT_EQ(answer_next(), "apply");
}

TEST_F(GatewaysOfAHost, R_B3_the_next_agent_goes_on_and_removes_what_is_not_told_any_more) {
  home_.networks = {{kVni, network()}, {1002, network(1002)}};
  gateways_->start();
  EXPECT_EQ(answer_next(), "open");
  EXPECT_EQ(answer_next(), "") << "it serves what it has; nobody has said who its members are";
  EXPECT_EQ(answer_next(1002), "open");
  gateways_->take(whole({network()}, {member("web", "10.50.0.10")}));
  EXPECT_EQ(answer_next(), "apply");
  EXPECT_EQ(answer_next(1002), "remove");
  EXPECT_EQ(home_.networks.size(), 1U);
}

TEST_F(GatewaysOfAHost, R_B3_a_host_without_a_driver_has_none) {
  Gateways none(loop_, fabric_, nullptr, [](const Error&) {});
  none.start();
  none.take(whole({network()}, {}));
  settle();
  EXPECT_TRUE(fabric_.gateways.empty());
}

TEST_F(GatewaysOfAHost, R_B3_answers_that_come_after_its_end_reach_nobody) {
  gateways_->take(whole({network()}, {}));
  settle();
  auto late = std::move(home_.servers.at(kVni)->asked.front().second);
  gateways_.reset();
  EXPECT_EQ(home_.alive, 0);
  late({});
  settle();
}

}  // namespace
}  // namespace virga
