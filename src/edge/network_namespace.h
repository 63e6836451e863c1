#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "edge/process.h"

namespace virga {

/// Runs `task` with the calling thread inside the namespace; -1 = where it is. A socket stays where it was made.
/// Errors: denied, invalid (no namespace). A thread that cannot come back ends the process.
Result<void> in_network_namespace(int network_namespace, const std::function<void()>& task);

/// One without a name: it ends with the last holder. Errors: denied, exhausted.
Result<Descriptor> make_network_namespace();

/// Held while a name is made in `folder`, and while the folder is dropped, so that it is not taken from under a new
/// name; ended by closing. A file beside it, `folder`.lock, which goes when the folder is dropped. Waits 1 s at most.
/// Errors: not_found, denied, timeout. Blocks the thread.
Result<Descriptor> lock_namespace_folder(const std::string& folder);

/// Takes away the folder in which ip-netns(8) names namespaces, "/run/netns", with its mount, when no name is left:
/// who makes the next one makes it again. A folder in use, or not there, or locked for long, stays as it is.
void drop_unused_namespace_folder(const std::string& folder);

}  // namespace virga
