#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "driver/contract.h"
#include "driver/load_balancer.h"

/// The promises of LoadBalancer as tests. A test program makes a LoadBalancerLab for its implementation, includes
/// load_balancer_contract_tests.h in one file and instantiates the suite there.
namespace virga {

/// What became of requests that clients sent without pause.
struct LoadReport {
  std::int64_t answered = 0;
  std::int64_t failed = 0;       ///< no answer, or another one than 200
  std::int64_t reconnected = 0;  ///< a connection that was kept was gone before the answer came
  std::map<std::string, std::int64_t> by_server;
};

/// One balancer, open, without a spec; servers and clients around it.
class LoadBalancerLab {
 public:
  virtual ~LoadBalancerLab() = default;

  virtual LoadBalancer& balancer() = 0;

  /// Ends the agent and starts another; what balances lives on.
  virtual void restart_agent() = 0;
  virtual void kill_balancer() = 0;

  /// A server that answers every request with its name; its place is the result's.
  virtual BalancerServer start_server(const std::string& name) = 0;

  /// It is gone: connections end, new ones are refused.
  virtual void end_server(const std::string& name) = 0;

  /// Where nobody listens.
  virtual int free_port() = 0;

  /// Somebody else listens at 127.0.0.1 from now on.
  virtual int taken_port() = 0;

  /// PEM, with its key, for 127.0.0.1; clients of this lab trust it.
  virtual std::string certificate() = 0;

  /// One request, beside this test, whose server holds the answer back until release_answers().
  virtual void ask_slowly(const BalancerFrontend& at) = 0;
  virtual void release_answers() = 0;

  /// Name of the server that answered the last of them; empty = none yet, "failed".
  virtual std::string slow_answer() = 0;

  /// Clients that ask without pause, until end_load().
  virtual void begin_load(const BalancerFrontend& at, int clients) = 0;
  virtual LoadReport load() const = 0;
  virtual LoadReport end_load() = 0;

  /// What is left after remove(): files, processes. Empty = nothing.
  virtual std::vector<std::string> leftovers() = 0;

  virtual bool run_until(const std::function<bool()>& condition, Duration deadline) = 0;
};

using MakeLoadBalancerLab = std::unique_ptr<LoadBalancerLab> (*)();

class LoadBalancerContract : public testing::TestWithParam<MakeLoadBalancerLab> {
 protected:
  template <typename T>
  Result<T> wait(const std::function<void(Callback<T>)>& call) {
    auto outcome = std::make_shared<std::optional<Result<T>>>();
    call([outcome](Result<T> result) {
      EXPECT_FALSE(outcome->has_value()) << "completed twice";
      outcome->emplace(std::move(result));
    });
    EXPECT_FALSE(outcome->has_value()) << "completed before the call returned";
    if (!lab->run_until([&] { return outcome->has_value(); }, seconds(30))) {
      return make_error(Errc::internal, "the call did not complete within its deadline");
    }
    return **outcome;
  }

  /// The next revision.
  Result<void> apply() {
    ++spec.revision;
    return wait<void>([&](Callback<void> done) { lab->balancer().apply(spec, std::move(done)); });
  }
  Result<ObservedBalancer> observe() {
    return wait<ObservedBalancer>(
        [&](Callback<ObservedBalancer> done) { lab->balancer().observe(std::move(done)); });
  }
  Result<void> remove() {
    return wait<void>([&](Callback<void> done) { lab->balancer().remove(std::move(done)); });
  }

  /// One frontend, one pool, servers "s1", "s2", ...
  void want_servers(int count, BalancerProtocol protocol = BalancerProtocol::http) {
    spec.frontends = {{"web", "127.0.0.1", lab->free_port(), protocol, "servers", "", 1'000}};
    spec.pools = {{"servers",
                   BalanceAlgorithm::round_robin,
                   {protocol, "/", milliseconds(200), milliseconds(200), 2, 1},
                   {}}};
    for (int index = 1; index <= count; ++index) {
      servers().push_back(lab->start_server("s" + std::to_string(index)));
    }
  }
  std::vector<BalancerServer>& servers() { return spec.pools[0].servers; }
  const BalancerFrontend& web() const { return spec.frontends[0]; }

  /// Waits until so many more requests have been answered.
  void serve(std::int64_t requests) {
    const std::int64_t until = lab->load().answered + requests;
    EXPECT_TRUE(lab->run_until([&] { return lab->load().answered >= until; }, seconds(20)));
  }
  std::int64_t answered_by(const std::string& server) const {
    const LoadReport report = lab->load();
    const auto found = report.by_server.find(server);
    return found == report.by_server.end() ? 0 : found->second;
  }

  /// How it is seen; one without a name = not at all.
  ObservedBalancerServer seen(const std::string& name) {
    const auto all = observe();
    EXPECT_TRUE(all.ok()) << all.error().text();
    for (const ObservedBalancerServer& one : all.ok() ? all->servers : decltype(all->servers)()) {
      if (one.name == name) return one;
    }
    return {};
  }
  bool comes_to(const std::string& name, BalancerHealth health, Duration deadline) {
    return lab->run_until([&] { return seen(name).health == health; }, deadline);
  }

  BalancerSpec spec;
  std::unique_ptr<LoadBalancerLab> lab = GetParam()();
};

}  // namespace virga
