// F-F31: reads any text as every kind of resource; what is accepted must come back unchanged.
#include "base/reflect.h"
#include "model/cluster.h"
#include "model/image.h"
#include "model/join.h"
#include "model/network.h"
#include "model/floating_address.h"
#include "model/security_group.h"
#include "model/tenant.h"
#include "model/vm.h"

namespace {

template <typename T>
void round_trip(const virga::json::value& parsed) {
  const auto read = virga::from_json<T>(parsed);
  if (!read.ok()) return;
  const std::string text = virga::to_json_text(*read);
  const auto again = virga::from_json_text<T>(text);
  VIRGA_CHECK(again.ok());
  VIRGA_CHECK(virga::to_json_text(*again) == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto parsed = virga::parse_json({reinterpret_cast<const char*>(data), size});
  if (!parsed.ok()) return 0;
  round_trip<virga::Vm>(*parsed);
  round_trip<virga::Cluster>(*parsed);
  round_trip<virga::Host>(*parsed);
  round_trip<virga::Image>(*parsed);
  round_trip<virga::Tenant>(*parsed);
  round_trip<virga::Network>(*parsed);
  round_trip<virga::SecurityGroup>(*parsed);
  round_trip<virga::FloatingAddress>(*parsed);
  round_trip<virga::JoinRequest>(*parsed);
  return 0;
}
