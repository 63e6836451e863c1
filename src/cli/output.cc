#include "cli/output.h"

#include <algorithm>

namespace virga::cli {

namespace json = boost::json;

namespace {

std::string scalar_text(const json::value& from) {
  if (from.is_string()) return std::string(from.get_string());
  if (from.is_null()) return "";
  return json::serialize(from);
}

/// Text that a terminal can show as it is: what a guest or another tenant wrote must not steer it.
std::string harmless(std::string text) {
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) c = '?';
  }
  return text;
}

bool plain_yaml(const std::string& text) {
  if (text.empty() || text.size() > 200) return false;
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const bool word = letter(text.front()) && std::all_of(text.begin(), text.end(), [&](char c) {
    return letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == '/';
  });
  static const std::set<std::string> kReserved = {"true", "false", "null", "yes",   "no",
                                                  "on",   "off",   "True", "False", "Null",
                                                  "TRUE", "FALSE", "NULL", "y",     "n"};
  return word && !kReserved.contains(text);
}

void write_yaml(const json::value& from, int depth, std::string& out) {
  const std::string indent(static_cast<std::size_t>(depth) * 2, ' ');
  const auto nested = [](const json::value& value) {
    return (value.is_object() && !value.get_object().empty()) ||
           (value.is_array() && !value.get_array().empty());
  };
  if (from.is_object() && !from.get_object().empty()) {
    for (const auto& [name, value] : from.get_object()) {
      const std::string key(name);
      out += indent + (plain_yaml(key) ? key : json::serialize(json::string(key))) + ":";
      if (nested(value)) {
        out += "\n";
        write_yaml(value, depth + 1, out);
      } else {
        out += " ";
        write_yaml(value, depth, out);
      }
    }
  } else if (from.is_array() && !from.get_array().empty()) {
    for (const json::value& value : from.get_array()) {
      std::string item;
      write_yaml(value, depth + 1, item);
      const std::size_t skip = nested(value) ? indent.size() + 2 : 0;
      out += indent + "- " + item.substr(skip);
    }
  } else if (from.is_string() && plain_yaml(std::string(from.get_string()))) {
    out += std::string(from.get_string()) + "\n";
  } else {
    out += json::serialize(from) + "\n";
  }
}

void write_json(const json::value& from, int depth, std::string& out) {
  const std::string indent(static_cast<std::size_t>(depth + 1) * 2, ' ');
  const std::string close(static_cast<std::size_t>(depth) * 2, ' ');
  const char* separator = "";
  if (from.is_object() && !from.get_object().empty()) {
    out += "{\n";
    for (const auto& [name, value] : from.get_object()) {
      out += separator + indent + json::serialize(json::string(name)) + ": ";
      write_json(value, depth + 1, out);
      separator = ",\n";
    }
    out += "\n" + close + "}";
  } else if (from.is_array() && !from.get_array().empty()) {
    out += "[\n";
    for (const json::value& value : from.get_array()) {
      out += separator + indent;
      write_json(value, depth + 1, out);
      separator = ",\n";
    }
    out += "\n" + close + "]";
  } else {
    out += json::serialize(from);
  }
}

}  // namespace

namespace {

using Columns = std::map<std::string, std::vector<Column>>;

const Columns& columns_of_resources() {
  static const Columns kColumns = {
      {"tenants", {{"NAME", "meta.name"}, {"REGIONS", "spec.regions"}}},
      {"clusters",
       {{"NAME", "meta.name"},
        {"TENANT", "meta.tenant"},
        {"HA", "spec.policy.ha_armed"},
        {"TOLERATES", "spec.policy.failures_tolerated"},
        {"DIRECTORY", "spec.shared_directory"},
        {"LEASE_MS", "spec.policy.lease_ms", true},
        {"HEARTBEAT_MS", "spec.policy.heartbeat_ms", true}}},
      {"hosts",
       {{"NAME", "meta.name"},
        {"CLUSTER", "spec.cluster"},
        {"HEALTH", "status.health"},
        {"MAINTENANCE", "spec.maintenance"},
        {"MILLICORES", "status.capacity.cpu_millicores"},
        {"MEMORY_MIB", "status.capacity.memory_mib"},
        {"LEASH", "status.leash_armed"},
        {"ACCELERATOR", "status.hypervisor.accelerator", true},
        {"ADDRESS", "status.address", true},
        {"REGION", "spec.region", true},
        {"PROOF", "status.fence_proof", true},
        {"REASON", "status.health_reason", true}}},
      {"machines", {{"NAME", "meta.name"}, {"BMC", "spec.bmc.protocol"}, {"URL", "spec.bmc.url"}}},
      {"images",
       {{"NAME", "meta.name"},
        {"TENANT", "meta.tenant"},
        {"FORMAT", "spec.format"},
        {"SIZE_MIB", "spec.size_mib"},
        {"PATH", "spec.path"},
        {"SHA256", "spec.sha256", true}}},
      {"networks",
       {{"NAME", "meta.tenant+meta.name"},
        {"CLUSTER", "spec.cluster"},
        {"SUBNET", "spec.subnet"},
        {"VNI", "spec.vni"},
        {"MTU", "spec.mtu", true}}},
      {"ports",
       {{"NAME", "meta.tenant+meta.name"},
        {"VM", "spec.vm"},
        {"NETWORK", "spec.network"},
        {"ADDRESS", "spec.address"},
        {"MAC", "spec.mac"},
        {"GROUPS", "spec.security_groups", true}}},
      {"security_groups", {{"NAME", "meta.tenant+meta.name"}, {"RULES", "spec.rules", true}}},
      {"floating_addresses",
       {{"NAME", "meta.tenant+meta.name"},
        {"ADDRESS", "spec.address"},
        {"VM", "spec.vm"},
        {"SERVICE", "spec.service"},
        {"NETWORK", "spec.network"},
        {"CLUSTER", "spec.cluster", true}}},
      {"vms",
       {{"NAME", "meta.tenant+meta.name"},
        {"WANTED", "spec.power"},
        {"POWER", "status.power"},
        {"HEALTH", "status.health"},
        {"HOST", "status.host"},
        {"CPUS", "spec.cpus"},
        {"MEMORY_MIB", "spec.memory_mib"},
        {"OPERATION", "status.operation"},
        {"EPOCH", "status.epoch.counter", true},
        {"IMAGE", "spec.image", true},
        {"CLUSTER", "spec.cluster", true},
        {"REASON", "status.unplaced_reason", true}}}
  };
  return kColumns;
}

const Columns& columns_of_storage() {
  static const Columns kColumns = {
      {"devices",
       {{"NAME", "meta.name"},
        {"HOST", "spec.host"},
        {"CLASS", "spec.storage_class"},
        {"CAPACITY_MIB", "spec.capacity_mib"},
        {"AVAILABLE", "status.available"},
        {"DIRECTORY", "spec.directory", true},
        {"REASON", "status.reason", true}}},
      {"volumes",
       {{"NAME", "meta.tenant+meta.name"},
        {"CLASS", "spec.storage_class"},
        {"SIZE_MIB", "status.size_mib"},
        {"DEVICE", "status.legs.0.device"},
        {"STATE", "status.legs.0.state"},
        {"SECOND", "status.legs.1.device", true},
        {"ITS_STATE", "status.legs.1.state", true},
        {"FROM", "spec.source", true},
        {"TAKEN", "status.taken_at", true},
        {"REGIONS", "spec.regions", true},
        {"CLUSTER", "spec.cluster", true},
        {"REASON", "status.reason", true}}}};
  return kColumns;
}

const Columns& columns_of_services() {
  static const Columns kColumns = {
      {"services",
       {{"NAME", "meta.tenant+meta.name"},
        {"ADDRESS", "spec.frontend.address"},
        {"PORT", "spec.frontend.port"},
        {"REPLICAS", "spec.replicas"},
        {"EXTRA", "status.extra"},
        {"AVAILABLE", "status.available"},
        {"BALANCER", "status.balancer"},
        {"RELOCATING", "status.relocation.original"},
        {"CLUSTER", "spec.cluster", true},
        {"REASON", "status.reason", true}}}};
  return kColumns;
}

const Columns& columns_of_records() {
  static const Columns kColumns = {
      {"operations",
       {{"NAME", "meta.name"},
        {"KIND", "kind"},
        {"SUBJECT", "subject"},
        {"STATE", "state"},
        {"PERCENT", "progress_percent"},
        {"REASON", "reason"},
        {"ERROR", "error", true},
        {"REQUEST", "correlation", true}}},
      {"events",
       {{"SEQUENCE", "sequence"},
        {"AT", "at"},
        {"SEVERITY", "severity"},
        {"KIND", "kind"},
        {"SUBJECT", "subject"},
        {"TEXT", "text"},
        {"ACTOR", "actor", true},
        {"REQUEST", "correlation", true}}},
      {"usage",
       {{"RESOURCE", "resource"},
        {"KIND", "kind"},
        {"FROM", "from"},
        {"TO", "to"},
        {"QUANTITY", "quantity"},
        {"UNIT", "unit"},
        {"HOST", "host"},
        {"AMOUNT_MICROS", "amount_micros"},
        {"PRICE_MICROS", "price_micros", true}}},
      {"usage_points",
       {{"AT", "at"},
        {"RUN_MS", "run_ms"},
        {"CPU_MS", "cpu_ms"},
        {"CPU_MILLICORES", "cpu_used_millicores"},
        {"MEMORY_MIB", "memory_used_mib"},
        {"READ_BYTES", "disk_read_bytes"},
        {"WRITTEN_BYTES", "disk_written_bytes"},
        {"RECEIVED_BYTES", "net_received_bytes"},
        {"SENT_BYTES", "net_sent_bytes"},
        {"HELD_MIB_MS", "held_mib_ms", true},
        {"USED_MIB", "used_mib", true}}},
      {"bill_lines",
       {{"RESOURCE", "resource"},
        {"KIND", "kind"},
        {"QUANTITY", "quantity"},
        {"UNIT", "unit"},
        {"AMOUNT_MICROS", "amount_micros"}}},
      {"peers",
       {{"PEER", "host"},
        {"HEALTH", "health"},
        {"SILENT_MS", "silent_ms"},
        {"FREE_MILLICORES", "free.cpu_millicores"},
        {"FREE_MIB", "free.memory_mib"},
        {"LEASE_MS", "lease_ms_left"},
        {"DEGRADED", "degraded", true},
        {"BOOT", "boot_id", true}}}
  };
  return kColumns;
}

}  // namespace

const std::vector<Column>& columns_of(const std::string& plural) {
  static const std::vector<Column> kName = {{"NAME", "meta.name"}};
  for (const Columns* columns : {&columns_of_resources(), &columns_of_storage(),
                                 &columns_of_services(), &columns_of_records()}) {
    if (const auto found = columns->find(plural); found != columns->end()) return found->second;
  }
  return kName;
}

std::string text_at(const json::value& from, const std::string& path) {
  if (const std::size_t plus = path.find('+'); plus != std::string::npos) {
    return text_at(from, path.substr(0, plus)) + "/" + text_at(from, path.substr(plus + 1));
  }
  std::string pointer = "/" + path;
  std::replace(pointer.begin(), pointer.end(), '.', '/');
  boost::system::error_code failed;
  const json::value* at = from.find_pointer(pointer, failed);
  if (at == nullptr) return "-";
  const std::string text = harmless(scalar_text(*at));
  return text.empty() ? "-" : text;
}

std::string table_text(const std::vector<Column>& columns, const std::vector<json::value>& rows,
                       bool wide, bool titles) {
  std::vector<std::vector<std::string>> cells;
  std::vector<std::string> head;
  for (const Column& column : columns) {
    if (wide || !column.wide_only) head.push_back(column.title);
  }
  std::vector<std::size_t> widths;
  for (const std::string& title : head) widths.push_back(title.size());
  if (titles) cells.push_back(head);
  for (const json::value& row : rows) {
    std::vector<std::string> line;
    for (const Column& column : columns) {
      if (!wide && column.wide_only) continue;
      line.push_back(text_at(row, column.path));
      widths[line.size() - 1] = std::max(widths[line.size() - 1], line.back().size());
    }
    cells.push_back(std::move(line));
  }
  std::string out;
  for (const auto& line : cells) {
    for (std::size_t i = 0; i < line.size(); ++i) {
      out += line[i];
      if (i + 1 < line.size()) out += std::string(widths[i] - line[i].size() + 2, ' ');
    }
    out += "\n";
  }
  return out;
}

std::string pretty_json(const json::value& from) {
  std::string out;
  write_json(from, 0, out);
  return out + "\n";
}

std::string yaml_text(const json::value& from) {
  std::string out;
  write_yaml(from, 0, out);
  return out;
}

bool is_structured(const Session& session) {
  return session.format == Format::json || session.format == Format::yaml;
}

void print_value(Session& session, const json::value& value, bool one_of_many) {
  const bool json = session.format == Format::json;
  if (one_of_many)
    return session.out(json ? json::serialize(value) + "\n" : "---\n" + yaml_text(value));
  session.out(json ? pretty_json(value) : yaml_text(value));
}

void print_resources(Session& session, const std::string& plural,
                     const std::vector<json::value>& items, bool single) {
  if (is_structured(session)) {
    return print_value(session, single && items.size() == 1
                                    ? items.front()
                                    : json::value(json::array(items.begin(), items.end())));
  }
  session.out(table_text(columns_of(plural), items, session.format == Format::wide));
}

}  // namespace virga::cli
