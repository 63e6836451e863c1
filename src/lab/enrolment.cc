#include "lab/enrolment.h"

#include "base/reflect.h"
#include "edge/file.h"

namespace virga {

namespace {

constexpr Duration kReadyWithin = seconds(60);
constexpr Duration kLookEvery = milliseconds(100);

}  // namespace

Enrolment::Enrolment(AsioLoop& loop, EnrolmentPlan plan, Callback<void> done)
    : loop_(loop),
      plan_(std::move(plan)),
      done_(std::move(done)),
      ready_deadline_(loop.now() + kReadyWithin),
      timer_(loop) {
  const json::object cluster{{"meta", {{"name", plan_.cluster}}},
                             {"spec", {{"shared_directory", plan_.shared_directory}}}};
  steps_.push_back({"POST", "/v1/clusters", json::serialize(cluster), ""});
  for (const EnrolmentHost& host : plan_.hosts) {
    const json::object bmc{{"protocol", "redfish"},
                           {"url", host.bmc_url},
                           {"user", plan_.bmc_user},
                           {"password", plan_.bmc_password}};
    const json::object machine{{"meta", {{"name", host.name}}}, {"spec", {{"bmc", bmc}}}};
    // Replaced at every start: the lab's addresses may be others than last time, and these are
    // switched off by.
    steps_.push_back({"PUT", "/v1/machines/" + host.name, json::serialize(machine), ""});
  }
  for (const EnrolmentHost& host : plan_.hosts) {
    steps_.push_back(
        {"POST", "/v1/clusters/" + plan_.cluster + "/join-token", "{}", host.token_path});
  }
  wait_until_ready();
}

void Enrolment::call(HttpCall request, std::function<void(Result<HttpResponse>)> then) {
  request.headers["Content-Type"] = "application/json";
  http_call(loop_, std::move(request),
            [then = std::move(then), alive = std::weak_ptr(alive_)](Result<HttpResponse> response) {
              if (!alive.expired()) then(std::move(response));
            });
}

void Enrolment::wait_until_ready() {
  HttpCall request;
  request.url = plan_.api + "/readyz";
  request.deadline = seconds(5);
  call(std::move(request), [this](Result<HttpResponse> response) {
    if (response && response->status == 200) return run(0);
    if (loop_.now() < ready_deadline_) {
      return timer_.set_after(kLookEvery, [this] { wait_until_ready(); });
    }
    const std::string seen =
        response ? "status " + std::to_string(response->status) : response.error().text();
    done_(make_error(Errc::timeout, "wait for the server at " + plan_.api +
                                        "/readyz: not ready within 60 s: " + seen));
  });
}

void Enrolment::run(std::size_t index) {
  if (index == steps_.size()) return done_({});
  HttpCall request;
  request.method = steps_[index].method;
  request.url = plan_.api + steps_[index].path;
  request.body = steps_[index].body;
  call(std::move(request),
       [this, index](Result<HttpResponse> response) { answered(index, response); });
}

void Enrolment::answered(std::size_t index, const Result<HttpResponse>& response) {
  const Step& step = steps_[index];
  const std::string what = step.method + " " + plan_.api + step.path;
  if (!response) return done_(wrap_error(what, response.error()));
  constexpr int kExistsAlready = 409;
  const bool made = response->status >= 200 && response->status < 300;
  if (!made && (response->status != kExistsAlready || !step.token_path.empty())) {
    return done_(make_error(Errc::internal, what + ": status " + std::to_string(response->status) +
                                                ": " + response->body.substr(0, 500)));
  }
  if (!step.token_path.empty()) {
    const auto answer = parse_json(response->body);
    const json::value* token =
        answer && answer->is_object() ? answer->get_object().if_contains("token") : nullptr;
    if (token == nullptr || !token->is_string()) {
      return done_(make_error(Errc::internal, what + ": the answer holds no token"));
    }
    auto written = write_file_atomically(step.token_path,
                                         std::string(token->get_string().c_str()) + "\n", 0600);
    if (!written) return done_(written);
  }
  run(index + 1);
}

}  // namespace virga
