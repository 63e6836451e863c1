#pragma once

namespace virga {

/// `virgad leash --socket PATH [--watchdog PATH] [--watchdog-s N] [--state PATH]`: runs until SIGTERM or SIGINT.
/// With what the caller may do it locks its memory, rises above the guests' priority and is spared by the
/// out-of-memory killer; what is refused is logged. Returns the exit code.
int leash_main(int argc, char** argv);

}  // namespace virga
