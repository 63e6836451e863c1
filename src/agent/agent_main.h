#pragma once

namespace virga {

/// `virgad agent`: runs guests on one host for its server. Guests survive its end and its restart.
/// Exit codes: 0 ended by a signal, 1 could not start, 2 wrong options.
int agent_main(int argc, char** argv);

}  // namespace virga
