#pragma once

namespace virga {

/// `virgad sim`: plays scenario files, or one random life of a cloud from a seed. Exit code 0: no rule was broken and
/// every journal was as expected; 1: otherwise; 2: wrong arguments or unreadable files.
int sim_main(int argc, char** argv);

}  // namespace virga
