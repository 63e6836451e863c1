#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "model/event.h"
#include "server/api/answer.h"
#include "server/api/api.h"
#include "server/api/list_writer.h"

namespace virga::api {

/// One request under way.
struct Call {
  HttpRequest request;
  std::shared_ptr<HttpReply> reply;
  std::vector<std::string> segments;  ///< of the path after /v1
  std::string correlation;
  std::string route = "other";  ///< label of the metrics: few values
  Instant began;
  bool dry_run = false;
};
using CallPtr = std::shared_ptr<Call>;

/// What a decision wants to commit, and the answer when it was.
struct Change {
  std::vector<Guard> guards;
  std::vector<Write> writes;
  std::optional<Event> event;     ///< without one nothing is told; `at` and `correlation` are filled in
  std::string primary;            ///< key whose stored value proves the outcome
  int status = 200;
  boost::json::value body;        ///< the resource; meta.revision is filled in
  std::string location;
  std::shared_ptr<void> claims;   ///< kept until the view shows the commit, or it failed
  /// Instead of an answer: what follows the commit.
  std::function<void(Revision)> then;
};

/// Nothing to commit (no writes), something to commit, or a refusal. Pure but for claims.
using Decision = std::variant<Change, Problem>;
using Decide = std::function<Decision(const ClusterView&)>;

/// Addresses and VXLAN ids that decisions under way have taken but the view does not show yet: without it, parallel
/// creations would all take the same free one and all but one would have to plan again.
class Claims {
 public:
  bool taken(const std::string& scope, std::uint32_t number) const;
  /// Holds the number until the returned token is gone.
  std::shared_ptr<void> take(const std::string& scope, std::uint32_t number);

 private:
  using Held = std::map<std::string, std::set<std::uint32_t>>;
  std::shared_ptr<Held> held_ = std::make_shared<Held>();
};

/// Pages of one list are read at one revision: the first answer's view is kept for its followers.
class PagedViews {
 public:
  const ClusterView* find(Revision revision) const {
    for (const ClusterView& view : views_) {
      if (view.revision == revision) return &view;
    }
    return nullptr;
  }
  void keep(const ClusterView& view) {
    constexpr std::size_t kViewsMax = 8;
    if (find(view.revision) != nullptr) return;
    if (views_.size() == kViewsMax) views_.erase(views_.begin());
    views_.push_back(view);
  }

 private:
  std::vector<ClusterView> views_;
};

/// What all handlers share: answering, reading one's own writes, and optimistic commits.
class Engine : public std::enable_shared_from_this<Engine> {
 public:
  explicit Engine(ApiContext context);

  /// Ends waits and streams, so that nothing of this Api runs afterwards but completions that are on their way.
  void close();

  ApiContext& context() { return context_; }
  Claims& claims() { return claims_; }
  PagedViews& paged_views() { return paged_views_; }
  ListWriter& list_writer() { return list_writer_; }

  /// Clients that follow a stream; they live here until their connection ends.
  std::set<std::shared_ptr<void>>& streams() { return streams_; }

  void answer(const CallPtr& call, HttpResponse response);
  void refuse(const CallPtr& call, Problem problem);
  void refuse(const CallPtr& call, Error error) { refuse(call, Problem{std::move(error), {}, 0}); }
  void count(const CallPtr& call, int status);

  /// Runs `task` with the view as soon as it shows revision `at_least`, after 2 s with what there is.
  void with_view(Revision at_least, std::function<void(const ClusterView&)> task);

  /// The revision of the last commit acknowledged here.
  Revision committed() const { return committed_; }

  /// Decides on a view that shows all commits acknowledged here, commits, answers.
  void submit(CallPtr call, Decide decide);

  /// A lease under which keys live for at least a day.
  void day_lease(Callback<StoreLeaseId> done);

 private:
  struct Attempt;
  using AttemptPtr = std::shared_ptr<Attempt>;
  struct Waiter {
    Revision at_least;
    Instant deadline;
    std::function<void(const ClusterView&)> task;
  };

  void check_waiters();
  void try_once(const AttemptPtr& attempt, Revision at_least);
  void decide_and_commit(const AttemptPtr& attempt, const ClusterView& view);
  void add_bookkeeping(const AttemptPtr& attempt);
  void commit(const AttemptPtr& attempt);
  void committed(const AttemptPtr& attempt, Revision revision);
  void resolve_unknown(const AttemptPtr& attempt, CommitOutcome outcome);
  static bool happened(const Attempt& attempt, const std::optional<KeyValue>& stored);
  void replay(const AttemptPtr& attempt, const KeyValue& record);
  HttpResponse response_of(const Attempt& attempt, Revision revision) const;

  ApiContext context_;
  Claims claims_;
  PagedViews paged_views_;
  ListWriter list_writer_;
  Revision committed_ = 0;
  std::uint64_t events_ = 0;
  std::set<std::shared_ptr<void>> streams_;
  std::vector<Waiter> waiters_;
  Timer waiter_timer_;
  StoreLeaseId lease_ = 0;
  Instant lease_renewed_{};
};

}  // namespace virga::api
