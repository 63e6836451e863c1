#include <fmt/format.h>

#include <algorithm>

#include "mechanism/metering/bill.h"
#include "server/api/handlers.h"

namespace virga::api {
namespace {

using metering::kDayMs;
using metering::SubjectKind;

constexpr std::int64_t kDaysMax = 366;
constexpr std::int64_t kHourMs = 3'600'000;

std::string query_text(const Call& call, const std::string& name) {
  const auto found = call.request.query.find(name);
  return found == call.request.query.end() ? std::string() : found->second;
}

HttpResponse csv_response(std::string text) {
  HttpResponse response;
  response.headers["content-type"] = "text/csv; charset=utf-8";
  response.body = std::move(text);
  return response;
}

struct Resource {
  SubjectKind kind = SubjectKind::vm;
  std::string name;
};

/// "vm/acme/web". Errors: invalid.
Result<Resource> read_resource(const std::string& text) {
  const std::size_t slash = std::min(text.find('/'), text.size());
  Resource resource;
  const bool known =
      boost::describe::enum_from_string(text.substr(0, slash).c_str(), resource.kind);
  if (known && slash + 1 < text.size()) {
    resource.name = text.substr(slash + 1);
    return resource;
  }
  return make_error(Errc::invalid,
                    fmt::format("resource: \"{}\" is not vm/TENANT/NAME, host/NAME, "
                                "volume/TENANT/NAME or service/TENANT/NAME",
                                text.substr(0, 130)));
}

/// Milliseconds since 1970 of a day or of a moment. Errors: invalid, naming the parameter.
Result<std::int64_t> read_time(const Call& call, const std::string& name, std::int64_t fallback) {
  const std::string text = query_text(call, name);
  if (text.empty()) return fallback;
  if (text.size() <= 10) {
    const auto day = metering::day_of(text);
    if (!day) return make_error(Errc::invalid, name + ": " + day.error().what);
    return *day * kDayMs;
  }
  const auto time = from_json<WallTime>(json::value(text));
  if (!time) {
    return make_error(Errc::invalid, fmt::format("{}: \"{}\" is no time such as 2026-11-05 or "
                                                 "2026-11-05T12:00:00Z",
                                                 name, text.substr(0, 40)));
  }
  return time->unix_ms;
}

struct Span {
  std::int64_t from_ms = 0;
  std::int64_t to_ms = 0;
};

Result<Span> read_span(const Call& call, const Span& fallback) {
  const auto from = read_time(call, "from", fallback.from_ms);
  if (!from) return from.error();
  const auto to = read_time(call, "to", fallback.to_ms);
  if (!to) return to.error();
  if (*to > *from && *to - *from <= kDaysMax * kDayMs) return Span{*from, *to};
  return make_error(Errc::invalid,
                    fmt::format("to: it is not after `from`, or more than {} days", kDaysMax));
}

json::object step_json(const metering::UsageStep& step, SubjectKind kind) {
  json::object shown{{"at", to_string(WallTime{step.at_ms})}};
  const auto series = metering::series_of(kind);
  for (std::size_t one = 0; one < series.size(); ++one) {
    const metering::Rollup& rollup = step.series[one];
    if (rollup.points == 0) continue;  // a gap is no zero
    const std::string name(series[one].name);
    // Of a level the mean says more than the sum.
    shown[name] = series[one].level ? rollup.sum / rollup.points : rollup.sum;
    shown[name + "_most"] = rollup.most;
  }
  return shown;
}

bool metered(const EnginePtr& engine, const CallPtr& call) {
  if (engine->context().usage != nullptr) return true;
  engine->refuse(call, make_error(Errc::unsupported, "this server meters nothing"));
  return false;
}

void answer_records(const EnginePtr& engine, const CallPtr& call,
                    const Result<std::vector<metering::LedgerEntry>>& entries) {
  if (!entries) return engine->refuse(call, entries.error());
  const auto records = metering::records_of(*entries, engine->context().prices);
  if (query_text(*call, "format") == "csv") {
    return engine->answer(call, csv_response(metering::csv_of(records)));
  }
  json::array items;
  for (const metering::UsageRecord& record : records) items.push_back(to_json(record));
  engine->answer(call, json_response(200, json::object{{"items", std::move(items)}}));
}

}  // namespace

void read_usage(const EnginePtr& engine, const CallPtr& call) {
  if (!metered(engine, call)) return;
  const std::int64_t today = engine->context().loop.wall_now().unix_ms / kDayMs;
  const auto span = read_span(*call, {today * kDayMs, (today + 1) * kDayMs});
  if (!span) return engine->refuse(call, span.error());
  metering::LedgerQuery query;
  query.tenant = query_text(*call, "tenant");
  query.from_day = span->from_ms / kDayMs;
  query.to_day = (span->to_ms + kDayMs - 1) / kDayMs;
  if (const std::string wanted = query_text(*call, "resource"); !wanted.empty()) {
    const auto resource = read_resource(wanted);
    if (!resource) return engine->refuse(call, resource.error());
    query.kind = resource->kind;
    query.name = resource->name;
  }
  engine->context().usage->ledger(
      query, [engine, call](Result<std::vector<metering::LedgerEntry>> entries) {
        answer_records(engine, call, entries);
      });
}

void read_usage_points(const EnginePtr& engine, const CallPtr& call) {
  if (!metered(engine, call)) return;
  const auto resource = read_resource(query_text(*call, "resource"));
  if (!resource) return engine->refuse(call, resource.error());
  const std::int64_t now = engine->context().loop.wall_now().unix_ms;
  const auto span = read_span(*call, {now - kHourMs, now});
  if (!span) return engine->refuse(call, span.error());
  const auto step = query_number(*call, "step", 300, 86'400);
  if (!step) return engine->refuse(call, step.error());
  metering::PointsQuery query{resource->kind, resource->name, span->from_ms, span->to_ms,
                              static_cast<std::int64_t>(*step) * 1000};
  engine->context().usage->points(
      query, [engine, call, kind = resource->kind](Result<std::vector<metering::UsageStep>> steps) {
        if (!steps) return engine->refuse(call, steps.error());
        json::array items;
        for (const metering::UsageStep& one : *steps) items.push_back(step_json(one, kind));
        engine->answer(call, json_response(200, json::object{{"items", std::move(items)}}));
      });
}

void read_bill(const EnginePtr& engine, const CallPtr& call) {
  if (!metered(engine, call)) return;
  const std::string& tenant = call->segments[1];
  const std::string& month = call->segments[2];
  const auto end = metering::day_after_month(month);
  if (!end) return engine->refuse(call, end.error());
  metering::LedgerQuery query;
  query.tenant = tenant;
  query.from_day = *metering::day_of(month);
  query.to_day = *end;
  engine->context().usage->ledger(
      query, [engine, call, tenant, month](Result<std::vector<metering::LedgerEntry>> entries) {
        if (!entries) return engine->refuse(call, entries.error());
        const metering::PriceList& prices = engine->context().prices;
        const auto bill =
            metering::bill_of(tenant, month, metering::records_of(*entries, prices), prices);
        if (query_text(*call, "format") == "csv") {
          return engine->answer(call, csv_response(metering::csv_of(bill)));
        }
        engine->answer(call, json_response(200, to_json(bill)));
      });
}

}  // namespace virga::api
