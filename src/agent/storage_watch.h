#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/loop.h"
#include "base/result.h"

namespace virga {

/// Looks again and again whether the cluster's shared storage answers this host. A host that loses it reports itself as
/// failing, so that nothing new is placed there and what runs there is moved away. Loop thread only.
class StorageWatch {
 public:
  /// Writes there and reads it again, off the loop; may answer late or never.
  using Look = std::function<void(Callback<void> done)>;

  static constexpr Duration kEvery = seconds(2);
  static constexpr Duration kPatience = seconds(6);  ///< without an answer: three looks

  /// `what` is watched, as messages name it: "shared directory /srv/virga".
  StorageWatch(Loop& loop, std::string what, Look look);

  /// Begins; the first patience counts from here.
  void start();

  /// What is wrong, the same words as long as it is the same; empty = it has answered within kPatience.
  std::string failing() const;

 private:
  void look();

  Loop& loop_;
  std::string what_;
  Look look_;
  Timer timer_;
  Instant answered_at_;
  bool asked_ = false;  ///< and not answered yet: one look at a time
  std::string error_;   ///< of the last answer; empty = it was good, or there was none
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace virga
