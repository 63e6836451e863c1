#pragma once

#include <map>
#include <string>
#include <vector>

#include "mechanism/metering/usage_store.h"

namespace virga::metering {

/// What a tenant pays for. The name says the unit that has a price.
enum class ChargeKind {
  vcpu_hour,        ///< virtual processors while the guest runs
  memory_gib_hour,  ///< memory that it was given while it runs
  cpu_hour,         ///< processor time that it used
  disk_gib,         ///< read and written
  net_sent_gib,
  net_received_gib,
  volume_gib_hour,  ///< size of a volume while it is there
  service_million_requests,  ///< that a service's balancer took; TCP: connections
};
BOOST_DESCRIBE_ENUM(ChargeKind, vcpu_hour, memory_gib_hour, cpu_hour, disk_gib, net_sent_gib,
                    net_received_gib, volume_gib_hour, service_million_requests)

/// Prices from the beginning of a day (UTC) until those of a later one.
struct PricePeriod {
  std::string from;  ///< "2026-11-01"
  std::map<std::string, std::int64_t>
      prices;  ///< by the names of ChargeKind: millionths of the currency a unit; absent = free
};
BOOST_DESCRIBE_STRUCT(PricePeriod, (), (from, prices))

struct PriceList {
  std::string currency = "EUR";
  std::vector<PricePeriod> periods;  ///< in order of time
};
BOOST_DESCRIBE_STRUCT(PriceList, (), (currency, periods))

/// Errors: invalid, naming the field, the value and what would be right.
Result<PriceList> read_prices(const std::string& json_text);

/// One kind of use of one copy on one host within one day. Amounts of a subject and kind are rounded as a sum, so that
/// it does not matter into how many records moves and days have cut it.
struct UsageRecord {
  std::string tenant;
  std::string resource;  ///< "vm/acme/web"
  ChargeKind kind = ChargeKind::vcpu_hour;
  WallTime from;
  WallTime to;
  std::int64_t quantity = 0;  ///< exact
  std::string unit;           ///< of quantity: core_ms, mib_ms, ms, bytes, requests
  std::string host;           ///< or the volume's device; of a service that of its balancer
  Epoch epoch;
  std::int64_t price_micros = 0;   ///< of one unit of `kind`
  std::int64_t amount_micros = 0;  ///< millionths of the currency
};
BOOST_DESCRIBE_STRUCT(UsageRecord, (),
                      (tenant, resource, kind, from, to, quantity, unit, host, epoch, price_micros,
                       amount_micros))

/// The records of entries that stand in the order of UsageStore::ledger; those without quantity are left out. Pure.
std::vector<UsageRecord> records_of(const std::vector<LedgerEntry>& entries,
                                    const PriceList& prices);

struct BillLine {
  std::string resource;
  ChargeKind kind = ChargeKind::vcpu_hour;
  std::int64_t quantity = 0;
  std::string unit;
  std::int64_t amount_micros = 0;
};
BOOST_DESCRIBE_STRUCT(BillLine, (), (resource, kind, quantity, unit, amount_micros))

struct Bill {
  std::string tenant;
  std::string month;  ///< "2026-11"
  std::string currency;
  std::vector<BillLine> lines;
  std::int64_t amount_micros = 0;  ///< the sum of the lines
};
BOOST_DESCRIBE_STRUCT(Bill, (), (tenant, month, currency, lines, amount_micros))

Bill bill_of(const std::string& tenant, const std::string& month,
             const std::vector<UsageRecord>& records, const PriceList& prices);

/// With a line of headings; RFC 4180.
std::string csv_of(const std::vector<UsageRecord>& records);
std::string csv_of(const Bill& bill);

/// Days since 1970 of "2026-11-05" or "2026-11". Errors: invalid.
Result<std::int64_t> day_of(const std::string& date);
/// The month after: "2026-12" -> day of "2027-01-01".
Result<std::int64_t> day_after_month(const std::string& month);

}  // namespace virga::metering
