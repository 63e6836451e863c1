#pragma once

#include <boost/describe.hpp>
#include <boost/json.hpp>
#include <boost/mp11.hpp>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/id.h"
#include "base/result.h"
#include "base/time.h"
#include "base/units.h"

/// JSON from and to structs that are described with BOOST_DESCRIBE_STRUCT, and their OpenAPI schemas.
///
/// Mapping: a member's name is the JSON name; Quantity and Duration (whole milliseconds, member name ends in
/// `_ms`) are integers; Id and WallTime (RFC 3339, UTC) are strings; enums are their described names; an empty
/// optional is left out. A member that the text does not have keeps its default.
/// Pure; thread-safe; linear in the size of the text.
namespace virga {

namespace json = boost::json;

/// What to do with a field that the struct does not have: API, files and manifests refuse it; on the link to
/// agents of another version it is ignored, and an enum name that is not known keeps the default.
enum class UnknownFields { refuse, ignore };

/// Parses text with bounds: `bytes_max` of input and 32 levels of nesting. Errors: invalid, with the offset.
Result<json::value> parse_json(std::string_view text, std::size_t bytes_max = 1 << 20);

namespace reflect {

template <typename T>
struct IsOptional : std::false_type {};
template <typename T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <typename T>
struct IsVector : std::false_type {};
template <typename T>
struct IsVector<std::vector<T>> : std::true_type {};
template <typename T>
struct IsStringMap : std::false_type {};
template <typename T>
struct IsStringMap<std::map<std::string, T>> : std::true_type {};
template <typename T>
struct IsQuantity : std::false_type {};
template <typename Tag>
struct IsQuantity<Quantity<Tag>> : std::true_type {};
template <typename T>
struct IsId : std::false_type {};
template <typename Tag>
struct IsId<Id<Tag>> : std::true_type {};

template <typename T>
constexpr bool kDescribedStruct = boost::describe::has_describe_members<T>::value;
template <typename T>
using DescribedMembers = boost::describe::describe_members<T, boost::describe::mod_public |
                                                                  boost::describe::mod_inherited>;

/// Where a reader is in the text, for error messages: "spec.disks[2].size_mib". A chain of frames on the stack,
/// so that reading without an error builds no string.
class Path {
 public:
  Path() = default;
  Path field(std::string_view name) const { return Path(this, name, 0); }
  Path index(std::size_t position) const { return Path(this, {}, position); }
  std::string text() const;

 private:
  Path(const Path* parent, std::string_view name, std::size_t position)
      : parent_(parent), name_(name), position_(position) {}

  const Path* parent_ = nullptr;
  std::string_view name_;
  std::size_t position_ = 0;
};

Error wrong_type(const Path& path, std::string_view expected, const json::value& got);
Error unknown_field(const Path& path, std::string_view known_fields);
Error unknown_name(const Path& path, std::string_view got, std::string_view known_names);
Result<std::int64_t> read_integer(const json::value& from, const Path& path);
Result<double> read_number(const json::value& from, const Path& path);
Result<WallTime> read_wall_time(const json::value& from, const Path& path);

template <typename E>
std::string enum_names() {
  std::string names;
  boost::mp11::mp_for_each<boost::describe::describe_enumerators<E>>([&](auto described) {
    if (!names.empty()) names += ", ";
    names += described.name;
  });
  return names;
}

template <typename T>
std::string member_names() {
  std::string names;
  boost::mp11::mp_for_each<DescribedMembers<T>>([&](auto described) {
    if (!names.empty()) names += ", ";
    names += described.name;
  });
  return names;
}

}  // namespace reflect

/// The described name of an enum value; "?" for a value outside the description.
template <typename E>
  requires std::is_enum_v<E>
std::string_view enum_name(E value) {
  return boost::describe::enum_to_string(value, "?");
}

template <typename T>
json::value to_json(const T& from) {
  using namespace reflect;
  if constexpr (std::is_same_v<T, json::value> || std::is_same_v<T, json::object>) {
    return from;
  } else if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, double>) {
    return from;
  } else if constexpr (std::is_enum_v<T>) {
    return json::string(enum_name(from));
  } else if constexpr (std::is_unsigned_v<T>) {
    return static_cast<std::uint64_t>(from);
  } else if constexpr (std::is_integral_v<T>) {
    return static_cast<std::int64_t>(from);
  } else if constexpr (std::is_same_v<T, std::string>) {
    return json::string(from);
  } else if constexpr (IsQuantity<T>::value) {
    return from.value;
  } else if constexpr (IsId<T>::value) {
    return json::string(from.value);
  } else if constexpr (std::is_same_v<T, Duration>) {
    return to_ms(from);
  } else if constexpr (std::is_same_v<T, WallTime>) {
    return json::string(to_string(from));
  } else if constexpr (IsVector<T>::value) {
    json::array array;
    array.reserve(from.size());
    for (const auto& element : from) array.push_back(to_json(element));
    return array;
  } else if constexpr (IsStringMap<T>::value) {
    json::object object;
    for (const auto& [name, element] : from) object.emplace(name, to_json(element));
    return object;
  } else {
    static_assert(kDescribedStruct<T>, "describe the struct with BOOST_DESCRIBE_STRUCT");
    json::object object;
    boost::mp11::mp_for_each<DescribedMembers<T>>([&](auto described) {
      const auto& member = from.*described.pointer;
      using M = std::remove_cvref_t<decltype(member)>;
      if constexpr (IsOptional<M>::value) {
        if (member) object.emplace(described.name, to_json(*member));
      } else {
        object.emplace(described.name, to_json(member));
      }
    });
    return object;
  }
}

template <typename T>
std::string to_json_text(const T& from) {
  return json::serialize(to_json(from));
}

namespace reflect {

template <typename T>
Result<void> read(const json::value& from, T& to, const Path& path, UnknownFields unknown);

template <typename T>
Result<void> read_struct(const json::value& from, T& to, const Path& path, UnknownFields unknown) {
  if (!from.is_object()) return wrong_type(path, "an object", from);
  std::size_t known = 0;
  Result<void> outcome;
  boost::mp11::mp_for_each<DescribedMembers<T>>([&](auto described) {
    if (!outcome.ok()) return;
    const json::value* member = from.get_object().if_contains(described.name);
    if (member == nullptr) return;
    ++known;
    outcome = read(*member, to.*described.pointer, path.field(described.name), unknown);
  });
  if (!outcome.ok() || unknown == UnknownFields::ignore || known == from.get_object().size()) {
    return outcome;
  }
  for (const json::key_value_pair& entry : from.get_object()) {
    const std::string_view name = entry.key();
    bool found = false;
    boost::mp11::mp_for_each<DescribedMembers<T>>(
        [&](auto described) { found = found || name == described.name; });
    if (!found) return unknown_field(path.field(name), member_names<T>());
  }
  return outcome;
}

template <typename E>
Result<void> read_enum(const json::value& from, E& to, const Path& path, UnknownFields unknown) {
  if (!from.is_string()) return wrong_type(path, "one of " + enum_names<E>(), from);
  const std::string name(from.get_string());
  if (boost::describe::enum_from_string(name.c_str(), to)) return {};
  if (unknown == UnknownFields::ignore) return {};
  return unknown_name(path, name, enum_names<E>());
}

template <typename T>
Result<void> read_container(const json::value& from, T& to, const Path& path,
                            UnknownFields unknown) {
  to.clear();
  if constexpr (IsVector<T>::value) {
    if (!from.is_array()) return wrong_type(path, "a list", from);
    for (const json::value& element : from.get_array()) {
      typename T::value_type made{};
      if (auto done = read(element, made, path.index(to.size()), unknown); !done) return done;
      to.push_back(std::move(made));
    }
  } else {
    if (!from.is_object()) return wrong_type(path, "an object", from);
    for (const auto& [name, element] : from.get_object()) {
      typename T::mapped_type made{};
      if (auto done = read(element, made, path.field(name), unknown); !done) return done;
      to.emplace(std::string(name), std::move(made));
    }
  }
  return {};
}

template <typename T>
Result<void> read_integral(const json::value& from, T& to, const Path& path) {
  if constexpr (std::is_same_v<T, std::uint64_t>) {
    if (from.is_uint64()) return to = from.get_uint64(), Result<void>();
  }
  const auto number = read_integer(from, path);
  if (!number) return number.error();
  to = static_cast<T>(*number);
  if (static_cast<std::int64_t>(to) != *number || (std::is_unsigned_v<T> && *number < 0)) {
    return wrong_type(path, "a number that fits", from);
  }
  return {};
}

template <typename T>
Result<void> read(const json::value& from, T& to, const Path& path, UnknownFields unknown) {
  if constexpr (std::is_same_v<T, json::value>) {
    to = from;
  } else if constexpr (std::is_same_v<T, json::object>) {
    if (!from.is_object()) return wrong_type(path, "an object", from);
    to = from.get_object();
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!from.is_bool()) return wrong_type(path, "true or false", from);
    to = from.get_bool();
  } else if constexpr (std::is_enum_v<T>) {
    return read_enum(from, to, path, unknown);
  } else if constexpr (std::is_integral_v<T>) {
    return read_integral(from, to, path);
  } else if constexpr (std::is_same_v<T, double>) {
    const auto number = read_number(from, path);
    if (!number) return number.error();
    to = *number;
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!from.is_string()) return wrong_type(path, "a string", from);
    to.assign(from.get_string().begin(), from.get_string().end());
  } else if constexpr (IsId<T>::value) {
    return read(from, to.value, path, unknown);
  } else if constexpr (IsQuantity<T>::value) {
    return read(from, to.value, path, unknown);
  } else if constexpr (std::is_same_v<T, Duration>) {
    const auto number = read_integer(from, path);
    if (!number) return number.error();
    constexpr std::int64_t kMillisecondsMax = INT64_MAX / 1'000'000;
    if (*number > kMillisecondsMax || *number < -kMillisecondsMax) {
      return wrong_type(path, "milliseconds of less than 292 years", from);
    }
    to = milliseconds(*number);
  } else if constexpr (std::is_same_v<T, WallTime>) {
    const auto time = read_wall_time(from, path);
    if (!time) return time.error();
    to = *time;
  } else if constexpr (IsOptional<T>::value) {
    if (from.is_null()) return to.reset(), Result<void>();
    return read(from, to.emplace(), path, unknown);
  } else if constexpr (IsVector<T>::value || IsStringMap<T>::value) {
    return read_container(from, to, path, unknown);
  } else {
    static_assert(kDescribedStruct<T>, "describe the struct with BOOST_DESCRIBE_STRUCT");
    return read_struct(from, to, path, unknown);
  }
  return {};
}

}  // namespace reflect

/// Fills a T from JSON. Errors: invalid, naming the path, the value seen and what would be right.
template <typename T>
Result<T> from_json(const json::value& from, UnknownFields unknown = UnknownFields::refuse) {
  T made{};
  if (auto done = reflect::read(from, made, reflect::Path(), unknown); !done) return done.error();
  return made;
}

template <typename T>
Result<T> from_json_text(std::string_view text, UnknownFields unknown = UnknownFields::refuse) {
  auto parsed = parse_json(text);
  if (!parsed) return parsed.error();
  return from_json<T>(*parsed, unknown);
}

/// The OpenAPI 3.1 schema of T, nested structs in place.
template <typename T>
json::object json_schema() {
  using namespace reflect;
  if constexpr (std::is_same_v<T, json::value> || std::is_same_v<T, json::object>) {
    return {{"type", "object"}};
  } else if constexpr (std::is_same_v<T, bool>) {
    return {{"type", "boolean"}};
  } else if constexpr (std::is_enum_v<T>) {
    json::array names;
    boost::mp11::mp_for_each<boost::describe::describe_enumerators<T>>(
        [&](auto described) { names.emplace_back(described.name); });
    return {{"type", "string"}, {"enum", std::move(names)}};
  } else if constexpr (std::is_integral_v<T> || IsQuantity<T>::value ||
                       std::is_same_v<T, Duration>) {
    return {{"type", "integer"}};
  } else if constexpr (std::is_same_v<T, double>) {
    return {{"type", "number"}};
  } else if constexpr (std::is_same_v<T, WallTime>) {
    return {{"type", "string"}, {"format", "date-time"}};
  } else if constexpr (std::is_same_v<T, std::string> || IsId<T>::value) {
    return {{"type", "string"}};
  } else if constexpr (IsOptional<T>::value) {
    return json_schema<typename T::value_type>();
  } else if constexpr (IsVector<T>::value) {
    return {{"type", "array"}, {"items", json_schema<typename T::value_type>()}};
  } else if constexpr (IsStringMap<T>::value) {
    return {{"type", "object"}, {"additionalProperties", json_schema<typename T::mapped_type>()}};
  } else {
    json::object properties;
    boost::mp11::mp_for_each<DescribedMembers<T>>([&](auto described) {
      using M = std::remove_cvref_t<decltype(std::declval<T&>().*described.pointer)>;
      properties.emplace(described.name, json_schema<M>());
    });
    return {{"type", "object"}, {"properties", std::move(properties)}};
  }
}

}  // namespace virga
