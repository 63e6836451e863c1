#include "lab/bmc_service.h"

#include <array>

#include "base/reflect.h"
#include "edge/tls.h"

namespace virga {

namespace {

constexpr std::size_t kSilencedMax = 64;
constexpr const char* kSystems = "/redfish/v1/Systems";

HttpResponse json_response(int status, const json::object& body) {
  return HttpResponse{status, {{"Content-Type", "application/json"}}, json::serialize(body)};
}

HttpResponse error_response(int status, const std::string& message) {
  return json_response(status,
                       {{"error", {{"code", "Base.1.8.GeneralError"}, {"message", message}}}});
}

std::string decode_base64(const std::string& text) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char digit : text) {
    const std::size_t value = digits.find(digit);
    if (value == std::string::npos) break;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    out += static_cast<char>(bits >> count & 255);
  }
  return out;
}

bool authorized(const HttpRequest& request, const BmcServiceOptions& options) {
  const auto header = request.headers.find("authorization");
  const std::string scheme = "Basic ";
  if (header == request.headers.end() || header->second.rfind(scheme, 0) != 0) return false;
  return equal_in_constant_time(decode_base64(header->second.substr(scheme.size())),
                                options.user + ":" + options.password);
}

}  // namespace

BmcService::BmcService(AsioLoop& loop, BmcServiceOptions options, MachineSwitch& machine)
    : loop_(loop), options_(std::move(options)), machine_(machine) {}

void BmcService::handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  const BmcMode mode = machine_.mode();
  if (mode != BmcMode::lies) told_.reset();
  if (mode == BmcMode::silent) return keep_silent(std::move(reply));
  if (mode != BmcMode::slow) return reply->send(answer(request, mode));
  loop_.after(options_.slow_answer_ms, [this, request, reply, mode, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) reply->send(answer(request, mode));
  });
}

// Kept, because dropping the reply would answer in its own way.
void BmcService::keep_silent(std::shared_ptr<HttpReply> reply) {
  silenced_.push_back(std::move(reply));
  if (silenced_.size() > kSilencedMax) silenced_.pop_front();
}

std::string BmcService::power_state(BmcMode mode) {
  const MachinePower power = mode == BmcMode::lies && told_ ? *told_ : machine_.power();
  return power == MachinePower::on ? "On" : "Off";
}

HttpResponse BmcService::answer(const HttpRequest& request, BmcMode mode) {
  const std::string system = std::string(kSystems) + "/" + options_.system;
  const bool reading = request.method == "GET";
  if (reading && (request.path == "/redfish/v1" || request.path == "/redfish/v1/")) {
    return json_response(200, {{"@odata.id", "/redfish/v1"},
                               {"RedfishVersion", "1.15.0"},
                               {"Systems", {{"@odata.id", kSystems}}}});
  }
  if (!authorized(request, options_)) {
    HttpResponse refusal = error_response(401, "user or password is wrong");
    refusal.headers["WWW-Authenticate"] = "Basic realm=\"bmc\"";
    return refusal;
  }
  if (reading && request.path == kSystems) {
    return json_response(200, {{"@odata.id", kSystems},
                               {"Members@odata.count", 1},
                               {"Members", json::array{json::object{{"@odata.id", system}}}}});
  }
  const std::string reset_path = system + "/Actions/ComputerSystem.Reset";
  if (reading && request.path == system) {
    const json::object action{{"target", reset_path},
                              {"ResetType@Redfish.AllowableValues", {"On", "ForceOff"}}};
    return json_response(200, {{"@odata.id", system},
                               {"@odata.type", "#ComputerSystem.v1_16_0.ComputerSystem"},
                               {"Id", options_.system},
                               {"Name", options_.system},
                               {"PowerState", power_state(mode)},
                               {"Actions", {{"#ComputerSystem.Reset", action}}}});
  }
  if (request.method == "POST" && request.path == reset_path) return reset(request, mode);
  return error_response(404, "no " + request.path + " here");
}

HttpResponse BmcService::reset(const HttpRequest& request, BmcMode mode) {
  const auto body = parse_json(request.body, 4096);
  const json::value* type =
      body && body->is_object() ? body->get_object().if_contains("ResetType") : nullptr;
  const std::string wanted =
      type != nullptr && type->is_string() ? std::string(type->get_string().c_str()) : "";
  if (wanted != "On" && wanted != "ForceOff") {
    return error_response(400, "ResetType \"" + wanted + "\" is not On or ForceOff");
  }
  const MachinePower to = wanted == "On" ? MachinePower::on : MachinePower::off;
  if (mode == BmcMode::lies) {
    told_ = to;
  } else if (to == MachinePower::off) {
    machine_.force_off();
  } else if (auto begun = machine_.switch_on(); !begun) {
    return error_response(503, begun.error().text());
  }
  return HttpResponse{204, {}, ""};
}

}  // namespace virga
