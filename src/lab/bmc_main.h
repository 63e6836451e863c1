#pragma once

namespace virga {

/// `virgad bmc --listen ADDRESS:PORT --host NAME --instance LAB --processes KIND:NAME --power-file F --mode-file F
/// --password-file F [--watchdog PIPE] [--watchdog-s N]`: the management controller of one lab host, until SIGTERM.
/// Returns the exit code.
int bmc_main(int argc, char** argv);

}  // namespace virga
