#include "edge/http_text.h"

#include <boost/beast/core/string.hpp>
#include <boost/beast/http/rfc7230.hpp>

namespace virga {
namespace {

namespace http = boost::beast::http;

bool is_token(const std::string& name) {
  static constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  for (const char character : name) {
    const bool plain = std::isalnum(static_cast<unsigned char>(character)) != 0;
    if (!plain && kMarks.find(character) == std::string_view::npos) return false;
  }
  return !name.empty();
}

bool is_value(const std::string& value) {
  for (const char character : value) {
    const auto byte = static_cast<unsigned char>(character);
    if ((byte < 0x20 && byte != '\t') || byte == 0x7f) return false;
  }
  return true;
}

bool is_ours(http::field field) {
  return field == http::field::content_length || field == http::field::transfer_encoding ||
         field == http::field::connection || field == http::field::keep_alive;
}

}  // namespace

std::map<std::string, std::string> header_map(const http::fields& fields) {
  std::map<std::string, std::string> headers;
  for (const auto& field : fields) {
    std::string name(field.name_string());
    for (char& character : name) {
      if (character >= 'A' && character <= 'Z')
        character = static_cast<char>(character - 'A' + 'a');
    }
    std::string& value = headers[name];
    if (!value.empty()) value += ", ";
    value.append(field.value().data(), field.value().size());
  }
  return headers;
}

std::optional<std::string> set_headers(http::fields& fields,
                                       const std::map<std::string, std::string>& headers) {
  std::optional<std::string> bad;
  for (const auto& [name, value] : headers) {
    if (!is_token(name) || !is_value(value)) {
      bad = name;
    } else if (!is_ours(http::string_to_field(name))) {
      fields.set(name, value);
    }
  }
  return bad;
}

}  // namespace virga
