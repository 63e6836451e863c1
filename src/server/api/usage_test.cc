#include "mechanism/metering/memory_usage_store.h"
#include "server/api/api_fixture.h"

namespace virga::test {
namespace {

constexpr std::int64_t kDay = 20'758;  // 2026-11-01

/// An hour of one VM with two processors on the first day of a month.
class Usage : public ApiTest {
 protected:
  Usage() {
    metering::Window window;
    window.number = kDay * metering::kDayMs / metering::kWindowMs;
    window.fresh = {{1, metering::SubjectKind::vm, "acme/web", "acme"}};
    window.charged = {{1, 1, {1, 7}, "host-1", 2, 1024, kDay * metering::kDayMs, {}}};
    window.charges = {{1, kDay * metering::kDayMs, kDay * metering::kDayMs + 3'600'000, {}}};
    window.charges[0].amounts[metering::kRun] = 3'600'000;
    EXPECT_TRUE(disk->keep(window).ok());
    ApiContext metered = context();
    metered.usage = &usage;
    metered.prices = *metering::read_prices(
        R"({"periods": [{"from": "2026-01-01", "prices": {"vcpu_hour": 10000}}]})");
    api = std::make_unique<Api>(std::move(metered));
  }

  std::shared_ptr<metering::MemoryUsage> disk = std::make_shared<metering::MemoryUsage>();
  metering::MemoryUsageStore usage{loop, disk};
};

TEST_F(Usage, A3_19_records_and_bills_are_told_as_json_and_csv) {
  const auto list = parsed(call("GET", "/v1/usage?tenant=acme&from=2026-11-01&to=2026-12-01"));
  const auto& items = list.at("items").as_array();
  ASSERT_EQ(items.size(), 2U) << "processors and memory";
  EXPECT_EQ(items[0].at("resource").as_string(), "vm/acme/web");
  EXPECT_EQ(items[0].at("amount_micros").as_int64(), 20'000);
  const auto csv =
      call("GET", "/v1/usage?resource=vm/acme/web&from=2026-11-01&format=csv&to=2026-11-02");
  EXPECT_EQ(csv.headers.at("content-type"), "text/csv; charset=utf-8");
  EXPECT_NE(csv.body.find("\"host-1\",1.7,10000,20000\r\n"), std::string::npos) << csv.body;
  const auto bill = parsed(call("GET", "/v1/bills/acme/2026-11"));
  EXPECT_EQ(bill.at("amount_micros").as_int64(), 20'000);
  EXPECT_EQ(parsed(call("GET", "/v1/bills/acme/2026-12")).at("lines").as_array().size(), 0U);
  EXPECT_EQ(parsed(call("GET", "/v1/bills/other/2026-11")).at("amount_micros").as_int64(), 0);
}

TEST_F(Usage, A3_18_a_bad_question_is_refused_by_field) {
  const std::pair<const char*, const char*> cases[] = {
      {"/v1/usage?resource=web", "resource"},
      {"/v1/usage?from=2026-11-31", "from"},
      {"/v1/usage?from=2026-11-02&to=2026-11-01", "to"},
      {"/v1/usage/points", "resource"},
      {"/v1/usage/points?resource=vm/acme/web&step=x", "step"},
      {"/v1/bills/acme/2026", "month"},
  };
  for (const auto& [target, field] : cases) {
    const auto refused = call("GET", target);
    EXPECT_EQ(refused.status, 400) << target << refused.body;
    EXPECT_EQ(text_at(parsed(refused), "field"), field) << target;
  }
}

TEST_F(Usage, A3_18_a_server_that_meters_nothing_says_so) {
  api = std::make_unique<Api>(context());
  EXPECT_EQ(call("GET", "/v1/usage").status, 501);
}

}  // namespace
}  // namespace virga::test
