#include "mechanism/metering/bill.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace virga::metering {
namespace {

constexpr std::int64_t kDay = 20'758;  // 2026-11-01

LedgerEntry entry(std::int64_t day, const std::string& host, std::int64_t run_ms) {
  LedgerEntry made;
  made.subject = {1, SubjectKind::vm, "acme/web", "acme"};
  made.charged.place = host;
  made.charged.cpus = 2;
  made.charged.memory_mib = 1024;
  made.charge.from_ms = day * kDayMs;
  made.charge.to_ms = day * kDayMs + run_ms;
  made.charge.amounts[kRun] = run_ms;
  return made;
}

PriceList prices() {
  return *read_prices(R"({"currency": "EUR", "periods": [
    {"from": "2026-01-01", "prices": {"vcpu_hour": 10000, "memory_gib_hour": 4000}},
    {"from": "2026-11-02", "prices": {"vcpu_hour": 20000}}]})");
}

TEST(Bill, A3_19_hours_cost_what_the_list_of_their_day_says) {
  EXPECT_EQ(*day_of("2026-11-01"), kDay);
  EXPECT_EQ(*day_of("2026-11"), kDay);
  EXPECT_EQ(*day_after_month("2026-11"), kDay + 30);
  EXPECT_EQ(*day_after_month("2026-12"), *day_of("2027-01-01"));
  const auto records =
      records_of({entry(kDay, "a", 3'600'000), entry(kDay + 1, "b", 1'800'000)}, prices());
  const Bill bill = bill_of("acme", "2026-11", records, prices());
  ASSERT_EQ(bill.lines.size(), 2U);
  EXPECT_EQ(bill.lines[0].kind, ChargeKind::vcpu_hour);
  EXPECT_EQ(bill.lines[0].quantity, 2 * 5'400'000);
  EXPECT_EQ(bill.lines[0].amount_micros, 2 * 10'000 + 20'000);
  EXPECT_EQ(bill.lines[1].amount_micros, 4'000) << "memory has no price on the second day";
  EXPECT_EQ(bill.amount_micros, 44'000);
  EXPECT_EQ(records.front().host, "a");
  EXPECT_EQ(records.back().host, "b");
}

TEST(Bill, R_B8_records_and_bills_are_told_as_csv) {
  const auto records = records_of({entry(kDay, "host-1", 3'600'000)}, prices());
  const std::string text = csv_of(records);
  EXPECT_NE(text.find("\r\n\"acme\",\"vm/acme/web\",vcpu_hour,2026-11-01T00:00:00.000Z,"
                      "2026-11-01T01:00:00.000Z,7200000,core_ms,\"host-1\",0.0,10000,20000\r\n"),
            std::string::npos)
      << text;
  const std::string bill = csv_of(bill_of("acme", "2026-11", records, prices()));
  EXPECT_NE(bill.find("\"acme\",2026-11,\"vm/acme/web\",vcpu_hour,7200000,core_ms,20000,\"EUR\""),
            std::string::npos)
      << bill;
}

TEST(Bill, A3_19_a_bad_price_list_is_refused_with_its_place) {
  const auto why = [](const std::string& text) { return read_prices(text).error().text(); };
  EXPECT_NE(why(R"({"periods": [{"from": "2026-13-01"}]})").find("periods[0].from"),
            std::string::npos);
  EXPECT_NE(why(R"({"periods": [{"from": "2026-02-01"}, {"from": "2026-01-01"}]})")
                .find("periods[1].from"),
            std::string::npos);
  EXPECT_NE(why(R"({"periods": [{"from": "2026-02-01", "prices": {"vcpu": 1}}]})")
                .find("vcpu_hour, memory_gib_hour"),
            std::string::npos);
  EXPECT_NE(why(R"({"periods": [{"from": "2026-02-01", "prices": {"cpu_hour": -1}}]})")
                .find("periods[0].prices.cpu_hour"),
            std::string::npos);
  EXPECT_FALSE(read_prices(R"({"price": 1})").ok());
}

RC_GTEST_PROP(Bill, A3_19_moves_change_no_amount, ()) {
  const auto parts = *rc::gen::nonEmpty(
      rc::gen::container<std::vector<std::int64_t>>(rc::gen::inRange<std::int64_t>(1, 900'000)));
  std::vector<LedgerEntry> moved;
  std::int64_t all = 0;
  for (const std::int64_t part : parts) {
    moved.push_back(entry(kDay, "host-" + std::to_string(moved.size() % 3), part));
    all += part;
  }
  const auto amount = [](const std::vector<LedgerEntry>& entries) {
    return bill_of("acme", "2026-11", records_of(entries, prices()), prices()).amount_micros;
  };
  RC_ASSERT(amount(moved) == amount({entry(kDay, "host-0", all)}));
}

}  // namespace
}  // namespace virga::metering
