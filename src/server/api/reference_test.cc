#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "server/api/api.h"
#include "server/api/validate.h"

namespace virga::test {
namespace {

namespace json = boost::json;

constexpr const char* kIntroduction = R"(# HTTP API

Generated from the program by its test (`VIRGA_ACCEPT=1 ctest -R reference`); do not edit. `GET
/openapi.json` gives the whole document with all fields.

* `GET` of a list: `limit` and `after` page through it, `revision` of the first page keeps all
  pages at one moment (410 when that is not kept any more), `labels=NAME=VALUE,...`,
  `tenant` and `correlation` narrow it, `fields=meta.name,status.power` cuts it.
* `ETag` is the resource's revision; `If-Match` with an older one is refused with 412.
* `Idempotency-Key` on a request that changes something: its repetition within 24 hours gets the
  first answer.
* `?dry_run=true` checks everything, says what would be and changes nothing.
* `X-Request-Id` follows the request into events, operations and the hypervisor's log; without one
  the server makes it.
* 202: accepted; `Link` with `rel="monitor"` lists the operations that the request leads to, once
  they are decided (a change that needs none has none); `status.operation` names the one under way.
* A refusal is `{"code", "field", "text", "reasons": [{"candidate", "reason"}]}`. Codes and their
  status: invalid 400, unauthenticated 401, denied 403, not_found 404, conflict 409 (412 for
  `If-Match`, 410 for a revision that is gone), internal 500, unsupported 501, unavailable 503,
  timeout 504, exhausted 507.
* `GET /v1/watch` sends server-sent events `changed`, `removed` and, before it ends because
  history is gone, `compacted`; `Last-Event-ID` resumes it.

)";

std::string reference() {
  std::string out = kIntroduction;
  out += "| method | path | what |\n|---|---|---|\n";
  const json::object document = openapi_document();
  for (const auto& [path, item] : document.at("paths").as_object()) {
    for (const char* method : {"get", "post", "put", "patch", "delete"}) {
      const auto* operation = item.as_object().if_contains(method);
      if (operation == nullptr) continue;
      std::string upper(method);
      for (char& c : upper) c = static_cast<char>(c - 'a' + 'A');
      out += fmt::format("| {} | `{}` | {} |\n", upper, std::string(path),
                         std::string(operation->at("summary").as_string()));
    }
  }
  out += "\n## Ranges\n\n| field | least | most | of |\n|---|---|---|---|\n";
  for (const auto& [name, range] : api::ranges()) {
    out += fmt::format("| `{}` | {} | {} | {} |\n", name, range.low, range.high, range.unit);
  }
  return out;
}

TEST(Reference, F_B11_the_reference_of_the_api_is_what_the_program_does) {
  const std::string path = VIRGA_SOURCE_DIR "/docs/reference/api.md";
  const std::string made = reference();
  if (std::getenv("VIRGA_ACCEPT") != nullptr) std::ofstream(path) << made;
  std::stringstream kept;
  kept << std::ifstream(path).rdbuf();
  EXPECT_EQ(kept.str(), made) << "run with VIRGA_ACCEPT=1 and commit the file";
}

}  // namespace
}  // namespace virga::test
