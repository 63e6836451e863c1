#pragma once

namespace virga {

/// `virgad server`: the control plane of one cloud. Exit codes: 0 ended by a signal, 1 could not start, 2 wrong
/// options.
int server_main(int argc, char** argv);

}  // namespace virga
