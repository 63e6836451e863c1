#include "cli/yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/parser.h>
#include <yaml-cpp/yaml.h>

#include <charconv>
#include <sstream>

namespace virga::cli {

namespace json = boost::json;

namespace {

/// Leaves the parser; stays in this file.
struct Refused {
  YAML::Mark mark;
  std::string what;
};

bool all_digits(std::string_view text, std::string_view digits) {
  return !text.empty() && text.find_first_not_of(digits) == std::string_view::npos;
}

template <typename T>
std::optional<T> number(std::string_view text, int base = 10) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<json::value> float_value(std::string_view text) {
  const std::string_view body = text.substr(text.front() == '-' || text.front() == '+' ? 1 : 0);
  const bool looks = !body.empty() && body.find_first_of("0123456789") != std::string_view::npos &&
                     body.find_first_of(".eE") != std::string_view::npos &&
                     body.find_first_not_of("0123456789.eE+-") == std::string_view::npos;
  if (!looks) return std::nullopt;
  if (text.front() == '+') text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return json::value(value);
}

/// A plain scalar by the core schema.
json::value plain_value(const std::string& text) {
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL")
    return nullptr;
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  std::string_view digits = text;
  if (digits.front() == '+') digits.remove_prefix(1);
  const std::string_view unsigned_part =
      digits.substr(!digits.empty() && digits.front() == '-' ? 1 : 0);
  if (all_digits(unsigned_part, "0123456789")) {
    if (const auto value = number<std::int64_t>(digits)) return *value;
    if (const auto value = number<std::uint64_t>(digits)) return *value;
  }
  if (text.starts_with("0x") && all_digits(text.substr(2), "0123456789abcdefABCDEF")) {
    if (const auto value = number<std::int64_t>(std::string_view(text).substr(2), 16))
      return *value;
  }
  if (text.starts_with("0o") && all_digits(text.substr(2), "01234567")) {
    if (const auto value = number<std::int64_t>(std::string_view(text).substr(2), 8)) return *value;
  }
  if (const auto value = float_value(text)) return *value;
  return json::string(text);
}

/// Builds JSON from the parser's events, so that limits hold before anything large exists.
class Builder final : public YAML::EventHandler {
 public:
  explicit Builder(const YamlLimits& limits) : limits_(limits) {}

  json::value take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {
    root_ = nullptr;
    stack_.clear();
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    put(mark, nullptr);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw Refused{mark, "aliases are not allowed in manifests; write the value out"};
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    if (awaits_name()) return set_name(mark, value);
    if (tag == "!") return put(mark, json::string(value));
    refuse_tag(mark, tag);
    put(mark, plain_value(value));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    open(mark, json::array{});
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    open(mark, json::object{});
  }
  void OnMapEnd() override { close(); }
  void OnAnchor(const YAML::Mark& mark, const std::string&) override {
    throw Refused{mark, "anchors are not allowed in manifests; write the value out"};
  }

 private:
  struct Frame {
    json::value value;
    std::string name;  ///< in an object: of the value to come
    bool has_name = false;
  };

  static void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != 0)
      throw Refused{mark, "anchors are not allowed in manifests; write the value out"};
  }
  static void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
    if (!tag.empty() && tag != "?") throw Refused{mark, "tags are not allowed in manifests"};
  }
  bool awaits_name() const {
    return !stack_.empty() && stack_.back().value.is_object() && !stack_.back().has_name;
  }
  void set_name(const YAML::Mark& mark, const std::string& name) {
    Frame& frame = stack_.back();
    if (frame.value.get_object().contains(name)) {
      throw Refused{mark, "\"" + name.substr(0, 80) + "\" stands here twice"};
    }
    frame.name = name;
    frame.has_name = true;
  }
  void put(const YAML::Mark& mark, json::value value) {
    if (++values_ > limits_.values_max) throw Refused{mark, "too many values"};
    if (stack_.empty()) {
      root_ = std::move(value);
    } else if (stack_.back().value.is_array()) {
      stack_.back().value.get_array().push_back(std::move(value));
    } else if (stack_.back().has_name) {
      stack_.back().value.get_object()[stack_.back().name] = std::move(value);
      stack_.back().has_name = false;
    } else {
      throw Refused{mark, "a name must be a plain text"};
    }
  }
  void open(const YAML::Mark& mark, json::value value) {
    if (awaits_name()) throw Refused{mark, "a name must be a plain text"};
    if (stack_.size() >= static_cast<std::size_t>(limits_.depth_max)) {
      throw Refused{mark, fmt::format("nested more than {} deep", limits_.depth_max)};
    }
    if (++values_ > limits_.values_max) throw Refused{mark, "too many values"};
    stack_.push_back({std::move(value), {}, false});
  }
  void close() {
    json::value done = std::move(stack_.back().value);
    stack_.pop_back();
    put(YAML::Mark::null_mark(), std::move(done));
  }

  const YamlLimits& limits_;
  json::value root_;
  std::vector<Frame> stack_;
  std::size_t values_ = 0;
};

Error at_mark(const YAML::Mark& mark, const std::string& what) {
  return make_error(Errc::invalid,
                    fmt::format("line {}, column {}: {}", mark.line + 1, mark.column + 1, what));
}

}  // namespace

Result<std::vector<json::value>> parse_yaml(std::string_view text, const YamlLimits& limits) {
  if (text.size() > limits.bytes_max) {
    return make_error(Errc::invalid, fmt::format("the text has {} bytes; at most {} are read",
                                                 text.size(), limits.bytes_max));
  }
  std::vector<json::value> documents;
  try {
    std::istringstream in{std::string(text)};
    YAML::Parser parser(in);
    Builder builder(limits);
    while (parser.HandleNextDocument(builder)) {
      documents.push_back(builder.take());
      if (documents.size() > limits.documents_max) {
        return make_error(Errc::invalid,
                          fmt::format("more than {} documents", limits.documents_max));
      }
    }
  } catch (const Refused& refused) {
    return at_mark(refused.mark, refused.what);
  } catch (const YAML::Exception& wrong) {
    return at_mark(wrong.mark, wrong.msg);
  }
  return documents;
}

}  // namespace virga::cli
