#include <algorithm>

#include "cli/client.h"
#include "cli/handlers.h"
#include "cli/output.h"
#include "lab/lab_client.h"
#include "model/network.h"

namespace virga::cli {
namespace {

std::string instance_of(const Invocation& invocation) {
  return invocation.text("instance", kLabInstanceDefault);
}

int show(Session& session, const Result<json::value>& answer) {
  if (!answer.ok()) return fail(session, answer.error());
  const bool json = session.format == Format::json;
  if (json || !answer->is_null()) session.out(json ? pretty_json(*answer) : yaml_text(*answer));
  return 0;
}

}  // namespace

int show_lab(Session& session, const Invocation& invocation) {
  return show(session, lab_status(instance_of(invocation)));
}

int fail_lab(Session& session, const Invocation& invocation) {
  std::string how = invocation.text("how");
  std::replace(how.begin(), how.end(), '-', '_');
  if (how == "link_oneway") how = "link_in";
  json::object wanted{{"kind", "fail"}, {"host", invocation.text("name")}, {"how", how}};
  for (const char* field : {"network", "bmc"}) {
    if (invocation.has(field)) wanted[field] = invocation.text(field);
  }
  if (invocation.has("hold")) wanted["hold"] = true;
  const auto fault = from_json<LabRequest>(json::value(std::move(wanted)));
  if (!fault.ok()) return fail(session, fault.error());
  return show(session, lab_fail(instance_of(invocation), *fault));
}

int heal_lab(Session& session, const Invocation& invocation) {
  return show(session, lab_heal(instance_of(invocation), invocation.text("name")));
}

int attach_lab_client(Session& session, const Invocation& invocation) {
  const auto answer =
      request(session, "GET", resource_target("networks", invocation.text("network")));
  if (!answer.ok()) return fail(session, answer.error());
  const auto network = from_json<Network>(answer->body, UnknownFields::ignore);
  if (!network.ok()) return fail(session, network.error());
  const std::string address = invocation.text("address");
  const auto attached = lab_attach_client(instance_of(invocation), network->spec.vni, address);
  if (!attached.ok()) return show(session, attached);
  std::vector<OutsidePort> outside = network->spec.outside;
  const OutsidePort client{attached->at("mac").as_string().c_str(),
                           address.substr(0, address.find('/')),
                           attached->at("tunnel_address").as_string().c_str()};
  std::erase_if(outside, [&](const OutsidePort& one) {
    return one.mac == client.mac || one.address == client.address;
  });
  outside.push_back(client);
  const json::object change{{"spec", {{"outside", to_json(outside)}}}};
  const auto told = request(session, "PATCH", resource_target("networks", network->id().value),
                            json::value(change));
  if (!told.ok()) return fail(session, told.error());
  return show(session, attached);
}

}  // namespace virga::cli
