#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/time.h"
#include "mechanism/perimeter/regions.h"
#include "model/event.h"

namespace virga {

/// Looks after every change whether guests and data are where they may be, and tells what is not, whoever moved it and
/// however: once when it is seen, once when it is over. The planners have asked the same before each move. After a
/// restart it tells anew what is so then. Loop thread only. Cost: that of misplaced(), once a second at most.
class RegionWatch {
 public:
  using Tell = std::function<void(Event event)>;

  RegionWatch(const ClusterView& view, Tell tell) : view_(view), tell_(std::move(tell)) {}

  /// The view has taken changes of this kind of key.
  void changed(const std::vector<Change>& changes);

  /// Time passes; a few times a second.
  void tick(Instant now);

 private:
  void tell(const Misplaced& one, bool begins);

  const ClusterView& view_;
  Tell tell_;
  bool open_ = true;  ///< something changed since the last look
  Instant due_;
  std::map<std::pair<std::string, std::string>, Misplaced> known_;  ///< by its key()
};

}  // namespace virga
