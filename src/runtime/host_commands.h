#pragma once

#include <functional>

#include "agent/protocol.h"
#include "base/result.h"

namespace virga {

/// How decisions reach a host's agent. Loop thread only.
class HostCommands {
 public:
  using Progress = std::function<void(int percent)>;

  virtual ~HostCommands() = default;

  /// Sends one command and completes with the agent's answer. Errors: unavailable (no session, or it was lost before
  /// the answer: the effect is unknown), timeout, or the agent's own error. Never tried again here.
  /// `progressed` is told now and then how far a command is that takes long; never after `done`.
  virtual void call(const HostId& host, Command command, Duration deadline,
                    Callback<CommandResult> done, Progress progressed = nullptr) = 0;
};

}  // namespace virga
