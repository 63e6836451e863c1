#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "edge/process.h"

namespace virga {

/// One attachment of a volume as tgtd has it.
struct Target {
  std::string name;
  std::string key;     ///< of CHAP
  std::string image;   ///< absolute path
  std::string serial;  ///< that consumers know the volume by, whatever its target is called
};

/// The one initiator that a target lets in, and its user of CHAP: unlike any other target's.
std::string consumer_of(const std::string& target);

/// What a daemon is told with tgtadm, a process a word. Blocking: each call on a thread that may wait. Not thread-safe.
class TargetAdmin {
 public:
  /// `control`: the socket without its number. `obey_within`: for one word.
  TargetAdmin(std::string program, std::string control, Duration obey_within);

  /// The daemon answers.
  Result<void> greet();

  /// Of the targets whose names begin with `prefix`: those of `wanted` are there and complete, others have no LUN and
  /// let nobody in. Who is connected to such a one hears an error at its next request; it is removed when nobody is.
  /// What exists and is right is not touched. Errors: timeout (the daemon does not answer, or a request does not end),
  /// others in its words.
  Result<void> align(const std::string& prefix, const std::vector<Target>& wanted);

 private:
  struct Seen {
    int number = 0;
    std::string name;
    bool has_unit = false;
    bool connected = false;
    bool lets_in =
        false;  ///< an initiator is on its list: the last step of making it, the first undone
  };

  Result<std::string> say(std::vector<std::string> words);
  Result<void> tell(std::vector<std::string> words);
  Result<std::vector<Seen>> list();
  Result<void> make(int number, const Target& target);
  Result<void> cut(const Seen& target);
  Result<void> remove(const Seen& target);
  Result<void> end_unit(const std::string& number);

  const std::string program_;
  const std::string control_;
  const Duration obey_within_;
};

}  // namespace virga
