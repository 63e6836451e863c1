#include "driver/qmp/qmp_parser.h"

#include <fmt/format.h>

#include "base/reflect.h"

namespace virga {
namespace {

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

Error wrong_line(std::string_view line, const std::string& why) {
  std::string shown(line.substr(0, 80));
  for (char& letter : shown) {
    if (letter < ' ' || letter > '~') letter = '?';
  }
  return make_error(Errc::invalid,
                    fmt::format("QMP line of {} bytes \"{}\": {}", line.size(), shown, why));
}

}  // namespace

Result<std::vector<boost::json::object>> QmpParser::feed(std::string_view bytes) {
  std::vector<boost::json::object> objects;
  while (!bytes.empty()) {
    const std::size_t end = bytes.find('\n');
    rest_.append(bytes.substr(0, end));
    if (rest_.size() > line_bytes_max_) {
      return wrong_line(rest_, fmt::format("longer than {} bytes", line_bytes_max_));
    }
    if (end == std::string_view::npos) break;
    bytes.remove_prefix(end + 1);
    const std::string line = std::exchange(rest_, {});
    if (is_blank(line)) continue;
    auto value = parse_json(line, line_bytes_max_);
    if (!value) return wrong_line(line, value.error().text());
    if (!value->is_object()) return wrong_line(line, "not a JSON object");
    objects.push_back(std::move(value->get_object()));
  }
  return objects;
}

}  // namespace virga
