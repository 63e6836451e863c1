#pragma once

namespace virga {

/// `virgad dev [--hosts N] [--instance NAME] [--data DIR] [--listen 127.0.0.1:PORT] ... [--clean]`: a whole small
/// cloud on this machine until SIGTERM or SIGINT, with the rights of choose_lab_rights(); then all of it is removed but
/// the data folder. Cleans up first what a crashed run of the same instance left. Returns the exit code.
int dev_main(int argc, char** argv);

}  // namespace virga
