#include "sim/sim_load_balancer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "driver/load_balancer_contract_tests.h"
#include "sim/sim_loop.h"

/// The simulated load balancer keeps the promises of the one of HAProxy: the same suite.
namespace virga::sim {
namespace {

constexpr Duration kAnswerTakes = milliseconds(2);
constexpr Duration kPause = milliseconds(1);

class SimBalancerLab : public LoadBalancerLab {
 public:
  SimBalancerLab() { restart_agent(); }

  LoadBalancer& balancer() override { return *balancer_; }

  void restart_agent() override {
    balancer_.reset();
    balancer_ = std::make_unique<SimLoadBalancer>(loop_, truth_);
    bool open = false;
    balancer_->open([&](const Result<void>&) { open = true; });
    EXPECT_TRUE(run_until([&] { return open; }, seconds(10)));
  }
  void kill_balancer() override { truth_.kill(); }

  BalancerServer start_server(const std::string& name) override {
    BalancerServer made;
    made.name = name;
    made.address = "127.0.0.1";
    made.port = free_port();
    truth_.listeners[place(made.port)] = {name, true, loop_.now(), false};
    return made;
  }
  void end_server(const std::string& name) override {
    for (auto& [at, listener] : truth_.listeners) {
      if (listener.name == name) listener = {name, false, loop_.now(), false};
    }
  }

  int free_port() override { return ++port_; }
  int taken_port() override {
    truth_.taken.insert(place(++port_));
    return port_;
  }
  std::string certificate() override {
    return "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n";
  }

  void ask_slowly(const BalancerFrontend& at) override {
    BalancerTruth::ServerKey server;
    const bool begun = truth_.begin_request(place(at.port), loop_.now(), server);
    slow_ = begun ? "" : "failed";
    if (begun) held_.push_back(server);
  }
  void release_answers() override {
    for (const BalancerTruth::ServerKey& server : std::exchange(held_, {})) {
      truth_.end_request(server);
      slow_ = server.second;
    }
  }
  std::string slow_answer() override { return slow_; }

  void begin_load(const BalancerFrontend& at, int clients) override {
    report_ = {};
    loading_ = true;
    for (int index = 0; index < clients; ++index) ask(place(at.port));
  }
  LoadReport load() const override { return report_; }
  LoadReport end_load() override {
    loading_ = false;
    EXPECT_TRUE(run_until([&] { return under_way_ == 0; }, seconds(10)));
    return report_;
  }

  std::vector<std::string> leftovers() override {
    if (truth_.serving) return {"it serves"};
    return {};
  }

  bool run_until(const std::function<bool()>& condition, Duration deadline) override {
    return loop_.run_until_true(condition, deadline);
  }

 private:
  static std::string place(int port) { return fmt::format("127.0.0.1:{}", port); }

  void ask(const std::string& at) {
    BalancerTruth::ServerKey server;
    const bool begun = truth_.begin_request(at, loop_.now(), server);
    const std::uint64_t counters = truth_.counters;
    ++under_way_;
    loop_.after(kAnswerTakes, [this, at, server, begun, counters] {
      --under_way_;
      // A reload lets what is under way end, a kill does not.
      const bool well = begun && (truth_.serving || truth_.counters != counters);
      if (well) {
        truth_.end_request(server);
        ++report_.by_server[server.second];
      }
      ++(well ? report_.answered : report_.failed);
      loop_.after(kPause, [this, at] {
        if (loading_) ask(at);
      });
    });
  }

  SimLoop loop_;
  BalancerTruth truth_;
  std::unique_ptr<SimLoadBalancer> balancer_;
  int port_ = 20'000;
  std::string slow_;
  std::vector<BalancerTruth::ServerKey> held_;
  LoadReport report_;
  bool loading_ = false;
  int under_way_ = 0;
};

std::unique_ptr<LoadBalancerLab> make_lab() { return std::make_unique<SimBalancerLab>(); }

}  // namespace
}  // namespace virga::sim

namespace virga {
INSTANTIATE_TEST_SUITE_P(Sim, LoadBalancerContract, testing::Values(&sim::make_lab));
}  // namespace virga
