#include "mechanism/metering/bill.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <tuple>

namespace virga::metering {
namespace {

constexpr std::int64_t kHourMs = 3'600'000;
constexpr std::int64_t kGibBytes = std::int64_t{1} << 30;
constexpr std::int64_t kMibPerGib = 1024;
constexpr std::int64_t kPriceMax = 1'000'000'000'000;  ///< a million of the currency a unit

__extension__ using Wide = __int128;  // quantity times price

struct Kind {
  ChargeKind kind;
  SubjectKind of;
  const char* unit;
  std::int64_t units_per_price;  ///< of `unit` in one of what has a price
};
constexpr Kind kKinds[] = {
    {ChargeKind::vcpu_hour, SubjectKind::vm, "core_ms", kHourMs},
    {ChargeKind::memory_gib_hour, SubjectKind::vm, "mib_ms", kHourMs* kMibPerGib},
    {ChargeKind::cpu_hour, SubjectKind::vm, "ms", kHourMs},
    {ChargeKind::disk_gib, SubjectKind::vm, "bytes", kGibBytes},
    {ChargeKind::net_sent_gib, SubjectKind::vm, "bytes", kGibBytes},
    {ChargeKind::net_received_gib, SubjectKind::vm, "bytes", kGibBytes},
    {ChargeKind::volume_gib_hour, SubjectKind::volume, "mib_ms", kHourMs* kMibPerGib},
    {ChargeKind::service_million_requests, SubjectKind::service, "requests", 1'000'000},
};

std::int64_t quantity_of(ChargeKind kind, const LedgerEntry& entry) {
  const Amounts& used = entry.charge.amounts;
  switch (kind) {
    case ChargeKind::vcpu_hour:
      return used[kRun] * entry.charged.cpus;
    case ChargeKind::memory_gib_hour:
      return used[kRun] * entry.charged.memory_mib;
    case ChargeKind::cpu_hour:
      return used[kCpu];
    case ChargeKind::disk_gib:
      return used[kDiskReadBytes] + used[kDiskWrittenBytes];
    case ChargeKind::net_sent_gib:
      return used[kNetSentBytes];
    case ChargeKind::net_received_gib:
      return used[kNetReceivedBytes];
    case ChargeKind::volume_gib_hour:
      return used[kHeld];
    case ChargeKind::service_million_requests:
      return used[kRequests];
  }
  return 0;
}

/// Prices by day, found without reading the list anew for each record.
class Tariff {
 public:
  explicit Tariff(const PriceList& list) {
    for (const PricePeriod& period : list.periods) {
      if (const auto day = day_of(period.from)) periods_[*day] = &period.prices;
    }
  }
  std::int64_t price(ChargeKind kind, std::int64_t day) const {
    auto found = periods_.upper_bound(day);
    if (found == periods_.begin()) return 0;
    const auto& prices = *std::prev(found)->second;
    const auto price = prices.find(std::string(enum_name(kind)));
    return price == prices.end() ? 0 : price->second;
  }

 private:
  std::map<std::int64_t, const std::map<std::string, std::int64_t>*> periods_;
};

std::string resource_of(const Subject& subject) {
  return std::string(enum_name(subject.kind)) + "/" + subject.name;
}

Error bad_date(const std::string& text) {
  return make_error(Errc::invalid,
                    fmt::format("\"{}\" is no day such as 2026-11-05", text.substr(0, 40)));
}

std::string cell(const std::string& text) {
  std::string quoted = "\"";
  for (const char letter : text) quoted += letter == '"' ? "\"\"" : std::string(1, letter);
  return quoted + "\"";
}

}  // namespace

Result<std::int64_t> day_of(const std::string& date) {
  const std::string text = date.size() == 7 ? date + "-01" : date;
  int year = 0;
  unsigned month = 0;
  unsigned day = 0;
  int read = 0;
  if (text.size() != 10 ||
      std::sscanf(text.c_str(), "%4d-%2u-%2u%n", &year, &month, &day, &read) != 3 || read != 10) {
    return bad_date(date);
  }
  const std::chrono::year_month_day found{std::chrono::year(year), std::chrono::month(month),
                                          std::chrono::day(day)};
  if (!found.ok()) return bad_date(date);
  return std::chrono::sys_days(found).time_since_epoch().count();
}

Result<std::int64_t> day_after_month(const std::string& month) {
  const auto first = month.size() == 7 ? day_of(month) : Result<std::int64_t>(bad_date(month));
  if (!first) {
    return make_error(Errc::invalid, fmt::format("month: \"{}\" is no month such as 2026-11",
                                                 month.substr(0, 40)));
  }
  const std::chrono::year_month_day day{std::chrono::sys_days(std::chrono::days(*first))};
  const std::chrono::year_month_day next = day + std::chrono::months(1);
  return std::chrono::sys_days(next).time_since_epoch().count();
}

Result<PriceList> read_prices(const std::string& json_text) {
  auto list = from_json_text<PriceList>(json_text);
  if (!list) return list.error();
  std::string before;
  for (std::size_t at = 0; at < list->periods.size(); ++at) {
    const PricePeriod& period = list->periods[at];
    const std::string path = fmt::format("periods[{}]", at);
    if (const auto day = day_of(period.from); !day || period.from.size() != 10) {
      return make_error(Errc::invalid, path + ".from: " + bad_date(period.from).what);
    }
    if (period.from <= before) {
      return make_error(Errc::invalid,
                        fmt::format("{}.from: {} is not after {}", path, period.from, before));
    }
    before = period.from;
    for (const auto& [name, price] : period.prices) {
      ChargeKind kind{};
      if (!boost::describe::enum_from_string(name.c_str(), kind)) {
        return make_error(Errc::invalid,
                          fmt::format("{}.prices: \"{}\" is none of {}", path, name.substr(0, 40),
                                      reflect::enum_names<ChargeKind>()));
      }
      if (price >= 0 && price <= kPriceMax) continue;
      return make_error(Errc::invalid, fmt::format("{}.prices.{}: {} is not 0 to {}", path, name,
                                                   price, kPriceMax));
    }
  }
  return list;
}

std::vector<UsageRecord> records_of(const std::vector<LedgerEntry>& entries,
                                    const PriceList& prices) {
  const Tariff tariff(prices);
  std::vector<UsageRecord> records;
  std::map<std::tuple<std::string, std::string, ChargeKind>, Wide> sums;
  for (const LedgerEntry& entry : entries) {
    for (const Kind& kind : kKinds) {
      const std::int64_t quantity =
          kind.of == entry.subject.kind ? quantity_of(kind.kind, entry) : 0;
      if (quantity == 0) continue;
      UsageRecord record;
      record.tenant = entry.subject.tenant;
      record.resource = resource_of(entry.subject);
      record.kind = kind.kind;
      record.from = {entry.charge.from_ms};
      record.to = {entry.charge.to_ms};
      record.quantity = quantity;
      record.unit = kind.unit;
      record.host = entry.charged.place;
      record.epoch = entry.charged.epoch;
      record.price_micros = tariff.price(kind.kind, entry.charge.to_ms / kDayMs);
      Wide& sum = sums[{record.tenant, record.resource, record.kind}];
      const Wide before = sum / kind.units_per_price;
      sum += Wide{quantity} * record.price_micros;
      record.amount_micros = static_cast<std::int64_t>(sum / kind.units_per_price - before);
      records.push_back(std::move(record));
    }
  }
  return records;
}

Bill bill_of(const std::string& tenant, const std::string& month,
             const std::vector<UsageRecord>& records, const PriceList& prices) {
  Bill bill{tenant, month, prices.currency, {}, 0};
  std::map<std::pair<std::string, ChargeKind>, BillLine> lines;
  for (const UsageRecord& record : records) {
    if (record.tenant != tenant) continue;
    BillLine& line = lines[{record.resource, record.kind}];
    line.resource = record.resource;
    line.kind = record.kind;
    line.unit = record.unit;
    line.quantity += record.quantity;
    line.amount_micros += record.amount_micros;
    bill.amount_micros += record.amount_micros;
  }
  for (auto& [key, line] : lines) bill.lines.push_back(std::move(line));
  return bill;
}

std::string csv_of(const std::vector<UsageRecord>& records) {
  std::string text =
      "tenant,resource,kind,from,to,quantity,unit,host,epoch,price_micros,amount_micros\r\n";
  for (const UsageRecord& one : records) {
    text += fmt::format("{},{},{},{},{},{},{},{},{},{},{}\r\n", cell(one.tenant),
                        cell(one.resource), enum_name(one.kind), to_string(one.from),
                        to_string(one.to), one.quantity, one.unit, cell(one.host),
                        to_string(one.epoch), one.price_micros, one.amount_micros);
  }
  return text;
}

std::string csv_of(const Bill& bill) {
  std::string text = "tenant,month,resource,kind,quantity,unit,amount_micros,currency\r\n";
  for (const BillLine& line : bill.lines) {
    text += fmt::format("{},{},{},{},{},{},{},{}\r\n", cell(bill.tenant), bill.month,
                        cell(line.resource), enum_name(line.kind), line.quantity, line.unit,
                        line.amount_micros, cell(bill.currency));
  }
  return text;
}

}  // namespace virga::metering
