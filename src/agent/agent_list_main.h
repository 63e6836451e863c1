#pragma once

namespace virga {

/// `virgad agent list --shared FOLDER [--output table|json]`: the VMs of a cluster without its server. Exit codes: 0,
/// 1 the folder or a file cannot be read, 2 wrong options.
int agent_list_main(int argc, char** argv);

}  // namespace virga
