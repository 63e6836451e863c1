#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "edge/asio_loop.h"
#include "edge/http.h"

namespace virga {

struct EnrolmentHost {
  std::string name;
  std::string bmc_url;
  std::string token_path;  ///< the join token is written here, mode 0600
};

struct EnrolmentPlan {
  std::string api;  ///< "http://127.0.0.1:7070"
  std::string cluster;
  std::string shared_directory;
  std::string bmc_user;
  std::string bmc_password;
  std::vector<EnrolmentHost> hosts;
};

/// Makes the lab known to its server through the API, as an operator would: waits until the server is ready, then
/// the cluster, a machine with its BMC per host, and a join token per host. What exists already stays as it is.
/// Errors: timeout (not ready within 60 s), and what the API refused, with its words. Completes on the Loop once.
class Enrolment {
 public:
  Enrolment(AsioLoop& loop, EnrolmentPlan plan, Callback<void> done);
  Enrolment(const Enrolment&) = delete;
  Enrolment& operator=(const Enrolment&) = delete;

 private:
  struct Step {
    std::string method;
    std::string path;
    std::string body;
    std::string token_path;  ///< empty = the answer is not needed
  };

  void wait_until_ready();
  void run(std::size_t index);
  void answered(std::size_t index, const Result<HttpResponse>& response);
  void call(HttpCall request, std::function<void(Result<HttpResponse>)> then);

  AsioLoop& loop_;
  EnrolmentPlan plan_;
  Callback<void> done_;
  std::vector<Step> steps_;
  Instant ready_deadline_;
  Timer timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
