#include "server/api/engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/reflect.h"
#include "model/keys.h"
#include "runtime/outbox.h"

namespace virga::api {

namespace {

constexpr int kTriesMax = 16;                  ///< commits of one request
constexpr Duration kViewWaitMax = seconds(2);  ///< for the view to show a revision
constexpr Duration kViewPoll = milliseconds(1);
constexpr Duration kDayLease = std::chrono::hours(25);
constexpr Duration kDayLeaseFresh = std::chrono::hours(1);  ///< used for new keys so long
constexpr std::size_t kIdempotencyKeyMax = 128;
constexpr std::size_t kWaitersMax = 100'000;

/// What is kept of a request that carried an Idempotency-Key.
struct IdempotencyRecord {
  std::string request_sha256;
  int status = 200;
  std::string location;
  boost::json::value body;
};
BOOST_DESCRIBE_STRUCT(IdempotencyRecord, (), (request_sha256, status, location, body))

void set_revision(boost::json::value& resource, Revision revision) {
  if (!resource.is_object()) return;
  auto* meta = resource.get_object().if_contains("meta");
  if (meta != nullptr && meta->is_object()) meta->get_object()["revision"] = revision;
}

/// The request that an accepted answer is about: an operation's own, else the resource's last. It
/// is an earlier one when this one was a repetition.
std::string_view origin_of(const boost::json::value& body) {
  const auto word = [](const boost::json::value* of) -> std::string_view {
    const auto* found =
        of != nullptr && of->is_object() ? of->get_object().if_contains("correlation") : nullptr;
    return found != nullptr && found->is_string() ? std::string_view(found->get_string()) : "";
  };
  const std::string_view own = word(&body);
  if (!own.empty() || !body.is_object()) return own;
  return word(body.get_object().if_contains("meta"));
}

}  // namespace

struct Engine::Attempt {
  CallPtr call;
  Decide decide;
  Change change;
  int tries = 0;
  bool had_unknown = false;     ///< an earlier try of this very change may have happened
  std::string idempotency_key;  ///< store key; empty = none
  std::string request_sha256;
  StoreLeaseId lease = 0;
};

bool Claims::taken(const std::string& scope, std::uint32_t number) const {
  const auto found = held_->find(scope);
  return found != held_->end() && found->second.contains(number);
}

std::shared_ptr<void> Claims::take(const std::string& scope, std::uint32_t number) {
  (*held_)[scope].insert(number);
  return std::shared_ptr<void>(nullptr, [held = held_, scope, number](void*) {
    const auto found = held->find(scope);
    if (found == held->end()) return;
    found->second.erase(number);
    if (found->second.empty()) held->erase(found);
  });
}

Engine::Engine(ApiContext context)
    : context_(std::move(context)), list_writer_(context_.loop), waiter_timer_(context_.loop) {}

void Engine::close() {
  list_writer_.stop();
  waiter_timer_.cancel();
  waiters_.clear();
  streams_.clear();
}

void Engine::count(const CallPtr& call, int status) {
  const Metrics::Labels labels{{"route", call->route}, {"method", call->request.method}};
  auto with_status = labels;
  with_status["status"] = std::to_string(status);
  context_.metrics.count("virga_api_requests_total", "requests answered", with_status);
  const Duration took = context_.loop.now() - call->began;
  context_.metrics.observe_seconds("virga_api_request_seconds", "from request to answer", labels,
                                   std::chrono::duration<double>(took).count());
}

void Engine::answer(const CallPtr& call, HttpResponse response) {
  response.headers["x-request-id"] = call->correlation;
  response.headers["cache-control"] = "no-store";
  response.headers["x-content-type-options"] = "nosniff";
  count(call, response.status);
  if (call->request.method != "GET" || response.status >= 500) {
    log_line(response.status >= 500 ? LogLevel::warning : LogLevel::info, "api",
             fmt::format("{} {} -> {}", call->request.method, call->request.path, response.status),
             call->correlation);
  }
  call->reply->send(std::move(response));
}

void Engine::refuse(const CallPtr& call, Problem problem) {
  answer(call, problem_response(problem));
}

void Engine::with_view(Revision at_least, std::function<void(const ClusterView&)> task) {
  const ClusterView view = context_.view();
  if (view.revision >= at_least || waiters_.size() >= kWaitersMax) return task(view);
  waiters_.push_back({at_least, context_.loop.now() + kViewWaitMax, std::move(task)});
  if (waiters_.size() == 1) {
    waiter_timer_.set_after(kViewPoll, [this] { check_waiters(); });
  }
}

void Engine::check_waiters() {
  std::vector<std::function<void(const ClusterView&)>> due;
  {
    const Revision shown = context_.view().revision;
    const Instant now = context_.loop.now();
    std::vector<Waiter> waiting;
    for (Waiter& waiter : waiters_) {
      if (waiter.at_least <= shown || waiter.deadline <= now) {
        due.push_back(std::move(waiter.task));
      } else {
        waiting.push_back(std::move(waiter));
      }
    }
    waiters_ = std::move(waiting);
  }
  if (!waiters_.empty()) waiter_timer_.set_after(kViewPoll, [this] { check_waiters(); });
  for (auto& task : due) task(context_.view());
}

void Engine::day_lease(Callback<StoreLeaseId> done) {
  const Instant now = context_.loop.now();
  if (lease_ != 0 && now - lease_renewed_ < kDayLeaseFresh) {
    context_.loop.post([lease = lease_, done = std::move(done)] { done(lease); });
    return;
  }
  context_.store.grant(kDayLease, [self = shared_from_this(), now,
                                   done = std::move(done)](Result<StoreLeaseId> lease) {
    if (lease.ok()) {
      self->lease_ = *lease;
      self->lease_renewed_ = now;
    }
    done(std::move(lease));
  });
}

void Engine::submit(CallPtr call, Decide decide) {
  auto attempt = std::make_shared<Attempt>();
  attempt->call = call;
  attempt->decide = std::move(decide);
  const auto header = call->request.headers.find("idempotency-key");
  if (header == call->request.headers.end() || call->dry_run) {
    return try_once(attempt, committed_);
  }
  if (header->second.empty() || header->second.size() > kIdempotencyKeyMax) {
    return refuse(call,
                  make_error(Errc::invalid,
                             fmt::format("idempotency-key: must have 1 to {} characters, has {}",
                                         kIdempotencyKeyMax, header->second.size())));
  }
  const std::string scope = call->request.method + " " + call->request.path + "\n";
  attempt->idempotency_key = std::string(keys::kIdempotency) + sha256_hex(scope + header->second);
  attempt->request_sha256 = sha256_hex(scope + call->request.body);
  day_lease([self = shared_from_this(), attempt](Result<StoreLeaseId> lease) {
    if (!lease.ok()) return self->refuse(attempt->call, lease.error());
    attempt->lease = *lease;
    self->try_once(attempt, self->committed_);
  });
}

void Engine::try_once(const AttemptPtr& attempt, Revision at_least) {
  if (++attempt->tries > kTriesMax) {
    return refuse(attempt->call,
                  make_error(Errc::conflict,
                             fmt::format("{} {}: others changed it {} times in a row; try again",
                                         attempt->call->request.method, attempt->call->request.path,
                                         kTriesMax)));
  }
  const auto self = shared_from_this();
  const auto go = [self, attempt, at_least] {
    self->with_view(at_least, [self, attempt](const ClusterView& view) {
      self->decide_and_commit(attempt, view);
    });
  };
  if (attempt->idempotency_key.empty()) return go();
  context_.store.get(attempt->idempotency_key,
                     [self, attempt, go](Result<std::optional<KeyValue>> record) {
                       if (!record.ok()) return self->refuse(attempt->call, record.error());
                       if (record->has_value()) return self->replay(attempt, **record);
                       go();
                     });
}

void Engine::replay(const AttemptPtr& attempt, const KeyValue& record) {
  auto kept = from_json_text<IdempotencyRecord>(record.value);
  if (!kept.ok()) return refuse(attempt->call, wrap_error("read " + record.key, kept.error()));
  if (kept->request_sha256 != attempt->request_sha256) {
    return refuse(attempt->call, make_error(Errc::conflict,
                                            "idempotency-key: was used before with another body; "
                                            "use a new key for a new request"));
  }
  attempt->change = Change{};
  attempt->change.status = kept->status;
  attempt->change.location = kept->location;
  attempt->change.body = kept->body;
  HttpResponse response = response_of(*attempt, record.modified);
  response.headers["idempotency-replayed"] = "true";
  answer(attempt->call, std::move(response));
}

void Engine::decide_and_commit(const AttemptPtr& attempt, const ClusterView& view) {
  Decision decision = attempt->decide(view);
  if (auto* problem = std::get_if<Problem>(&decision)) {
    return refuse(attempt->call, std::move(*problem));
  }
  attempt->change = std::move(std::get<Change>(decision));
  attempt->had_unknown = false;
  if (attempt->change.writes.empty() || attempt->call->dry_run) {
    HttpResponse response = response_of(*attempt, 0);
    if (attempt->change.writes.empty()) response.headers["x-virga-unchanged"] = "true";
    if (attempt->call->dry_run) {
      response.status = 200;
      response.headers.erase("link");
      response.headers["x-virga-dry-run"] = "true";
    }
    return answer(attempt->call, std::move(response));
  }
  add_bookkeeping(attempt);
  commit(attempt);
}

void Engine::add_bookkeeping(const AttemptPtr& attempt) {
  Change& change = attempt->change;
  if (change.event) {
    change.event->at = context_.loop.wall_now();
    change.event->correlation = attempt->call->correlation;
    change.writes.push_back(outbox_write(*change.event, "api" + context_.session, ++events_));
  }
  if (attempt->idempotency_key.empty() || change.then) return;
  IdempotencyRecord record{attempt->request_sha256, change.status, change.location, change.body};
  change.guards.push_back({attempt->idempotency_key, 0});
  change.writes.push_back({attempt->idempotency_key, to_json_text(record), attempt->lease});
}

void Engine::commit(const AttemptPtr& attempt) {
  context_.store.commit(attempt->change.guards, attempt->change.writes,
                        [self = shared_from_this(), attempt](Result<CommitOutcome> outcome) {
                          if (!outcome.ok()) return self->refuse(attempt->call, outcome.error());
                          switch (outcome->verdict) {
                            case CommitVerdict::committed:
                              return self->committed(attempt, outcome->revision);
                            case CommitVerdict::conflict:
                              if (attempt->had_unknown)
                                return self->resolve_unknown(attempt, *outcome);
                              attempt->change = Change{};
                              return self->try_once(attempt, outcome->revision);
                            case CommitVerdict::unknown:
                              attempt->had_unknown = true;
                              return self->resolve_unknown(attempt, *outcome);
                          }
                        });
}

bool Engine::happened(const Attempt& attempt, const std::optional<KeyValue>& stored) {
  const Change& change = attempt.change;
  const auto mine = std::find_if(change.writes.begin(), change.writes.end(),
                                 [&](const Write& write) { return write.key == change.primary; });
  VIRGA_CHECK(mine != change.writes.end());
  if (!mine->value || !stored) return !mine->value && !stored;
  if (*mine->value == stored->value) return true;
  const auto parsed = parse_json(stored->value);
  if (!parsed.ok() || !parsed->is_object()) return false;
  const auto* meta = parsed->get_object().if_contains("meta");
  if (meta == nullptr || !meta->is_object()) return false;
  const auto* word = meta->get_object().if_contains("correlation");
  return word != nullptr && word->is_string() &&
         std::string_view(word->get_string()) == attempt.call->correlation;
}

void Engine::resolve_unknown(const AttemptPtr& attempt, CommitOutcome outcome) {
  context_.store.get(attempt->change.primary, [self = shared_from_this(), attempt,
                                               outcome](Result<std::optional<KeyValue>> now) {
    const CallPtr& call = attempt->call;
    if (!now.ok()) {
      const std::string what =
          "the outcome is unknown; read " + call->request.path + " before you try again";
      return self->refuse(call, wrap_error(what, now.error()));
    }
    if (happened(*attempt, *now)) {
      return self->committed(attempt, *now ? (*now)->modified : self->committed_);
    }
    if (outcome.verdict == CommitVerdict::conflict) {
      return self->try_once(attempt, outcome.revision);
    }
    if (++attempt->tries > kTriesMax) {
      return self->refuse(call, make_error(Errc::timeout,
                                           "the store does not say whether the change was made; "
                                           "read " +
                                               call->request.path + " before you try again"));
    }
    self->commit(attempt);
  });
}

void Engine::committed(const AttemptPtr& attempt, Revision revision) {
  committed_ = std::max(committed_, revision);
  if (attempt->change.claims) {
    with_view(revision, [claims = std::move(attempt->change.claims)](const ClusterView&) {});
  }
  if (attempt->change.then) return attempt->change.then(revision);
  answer(attempt->call, response_of(*attempt, revision));
}

HttpResponse Engine::response_of(const Attempt& attempt, Revision revision) const {
  boost::json::value body = attempt.change.body;
  if (revision != 0) set_revision(body, revision);
  HttpResponse response = json_response(attempt.change.status, body);
  if (!attempt.change.location.empty()) response.headers["location"] = attempt.change.location;
  const auto* meta = body.is_object() ? body.get_object().if_contains("meta") : nullptr;
  const auto* shown =
      meta != nullptr && meta->is_object() ? meta->get_object().if_contains("revision") : nullptr;
  if (shown != nullptr) response.headers["etag"] = "\"" + json::serialize(*shown) + "\"";
  if (response.status == 202) {
    // What it leads to is decided a moment later; ids are made of letters that need no encoding.
    response.headers["link"] =
        fmt::format("</v1/operations?correlation={}>; rel=\"monitor\"", origin_of(body));
  }
  return response;
}

}  // namespace virga::api
