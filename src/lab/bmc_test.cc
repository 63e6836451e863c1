#include <gtest/gtest.h>

#include "driver/bmc_contract.h"
#include "driver/redfish/redfish_bmc.h"
#include "lab/bmc_service.h"

namespace virga {
namespace {

/// A machine that is only a switch.
struct Machinery final : MachineSwitch {
  MachinePower power() override { return on ? MachinePower::on : MachinePower::off; }
  void force_off() override { on = false; }
  Result<void> switch_on() override { return on = true, Result<void>(); }
  BmcMode mode() override { return now; }

  bool on = true;
  BmcMode now = BmcMode::answers;
};

/// Runs the loop until the condition holds; false after 60 s.
bool run_until(AsioLoop& loop, const std::function<bool()>& condition) {
  bool held = false;
  Timer poll(loop);
  Timer limit(loop);
  limit.set_after(seconds(60), [&] { loop.stop(); });
  std::function<void()> look = [&] {
    held = condition();
    if (held) return loop.stop();
    poll.set_after(milliseconds(2), look);
  };
  loop.post(look);
  loop.run();
  return held;
}

/// The driver and the lab's BMC, joined by HTTP over loopback.
class RedfishBench final : public BmcBench {
 public:
  RedfishBench() {
    auto listening = HttpServer::listen(
        loop_, HttpServerOptions{}, [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
          service_.handle(std::move(request), std::move(reply));
        });
    EXPECT_TRUE(listening.ok());
    server_ = std::move(*listening);
  }

  Bmc& bmc() override { return bmc_; }
  Machine machine() const override {
    Machine machine;
    machine.meta.name = "host-1";
    machine.spec.bmc = {
        BmcProtocol::redfish,
        "http://127.0.0.1:" + std::to_string(server_->port()) + "/redfish/v1/Systems/host-1",
        "virga", "secret:with colon"};
    return machine;
  }
  void set_mode(BenchMode mode) override { machinery_.now = static_cast<BmcMode>(mode); }
  bool really_on() const override { return machinery_.on; }
  void set_really_on(bool on) override { machinery_.on = on; }
  Instant now() const override { return loop_.now(); }
  bool until(const std::function<bool()>& condition) override {
    return run_until(loop_, condition);
  }

 private:
  AsioLoop loop_;
  Machinery machinery_;
  BmcService service_{
      loop_, {"host-1", "virga", "secret:with colon", milliseconds(1500)}, machinery_};
  std::unique_ptr<HttpServer> server_;
  RedfishBmc bmc_{loop_};
};

INSTANTIATE_TEST_SUITE_P(Redfish, BmcContract, testing::Values([]() -> std::unique_ptr<BmcBench> {
                           return std::make_unique<RedfishBench>();
                         }));

/// A controller whose answers the test writes.
class OddController : public testing::Test {
 protected:
  void SetUp() override {
    auto listening =
        HttpServer::listen(loop_, HttpServerOptions{},
                           [this](const HttpRequest& request, std::shared_ptr<HttpReply> reply) {
                             reply->send(request.method == "POST" ? to_post_ : to_get_);
                           });
    ASSERT_TRUE(listening.ok());
    server_ = std::move(*listening);
    machine_.meta.name = "odd";
    machine_.spec.bmc.protocol = BmcProtocol::redfish;
    machine_.spec.bmc.url = "http://127.0.0.1:" + std::to_string(server_->port()) + "/s";
  }

  Result<MachinePower> ask() {
    std::optional<Result<MachinePower>> answer;
    bmc_.power(machine_, [&](Result<MachinePower> got) { answer = std::move(got); });
    EXPECT_TRUE(run_until(loop_, [&] { return answer.has_value(); }));
    return *answer;
  }
  Result<void> switch_off() {
    std::optional<Result<void>> answer;
    bmc_.set_power(machine_, MachinePower::off, [&](Result<void> got) { answer = got; });
    EXPECT_TRUE(run_until(loop_, [&] { return answer.has_value(); }));
    return *answer;
  }

  AsioLoop loop_;
  HttpResponse to_get_{200, {}, R"({"PowerState":"On"})"};
  HttpResponse to_post_{204, {}, ""};
  std::unique_ptr<HttpServer> server_;
  Machine machine_;
  RedfishBmc bmc_{loop_};
};

TEST_F(OddController, answers_that_make_no_sense_are_internal_errors) {
  for (const std::string body :
       {"", "{", "[]", "{}", R"({"PowerState":7})", R"({"PowerState":"Sideways"})"}) {
    to_get_.body = body;
    const auto power = ask();
    ASSERT_FALSE(power.ok()) << body;
    EXPECT_EQ(power.error().code, Errc::internal) << power.error().text();
    EXPECT_NE(power.error().text().find("odd"), std::string::npos) << power.error().text();
  }
}

TEST_F(OddController, a_refused_command_is_an_error_with_the_controllers_words) {
  to_post_ = {500, {}, "fan tray open"};
  const auto done = switch_off();
  ASSERT_FALSE(done.ok());
  EXPECT_NE(done.error().text().find("fan tray open"), std::string::npos);
}

TEST_F(OddController, a_refusal_to_switch_off_what_is_off_is_a_success) {
  to_post_ = {409, {}, "already off"};
  to_get_.body = R"({"PowerState":"Off"})";
  EXPECT_TRUE(switch_off().ok());
}

TEST_F(OddController, F_B10_a_command_that_is_accepted_without_effect_is_no_success) {
  const auto done = switch_off();
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().code, Errc::timeout);
}

TEST_F(OddController, a_controller_that_is_not_there_is_unavailable) {
  server_.reset();
  const auto power = ask();
  ASSERT_FALSE(power.ok());
  EXPECT_EQ(power.error().code, Errc::unavailable) << power.error().text();
}

}  // namespace
}  // namespace virga
