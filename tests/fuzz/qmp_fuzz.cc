#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "driver/qmp/qmp_parser.h"

/// F-F30: any bytes, cut anywhere, end in objects or in one error, and the bound of a line holds.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  constexpr std::size_t kLineMax = 1024;
  virga::QmpParser parser(kLineMax);
  std::string_view rest(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::size_t step = data[0] + 1U;
  while (!rest.empty()) {
    const std::string_view piece = rest.substr(0, step);
    rest.remove_prefix(piece.size());
    const auto objects = parser.feed(piece);
    if (!objects.ok()) {
      VIRGA_CHECK(objects.error().code == virga::Errc::invalid);
      return 0;
    }
    VIRGA_CHECK(objects->size() <= piece.size());
  }
  return 0;
}
