#pragma once

#include <string>

#include "base/result.h"
#include "model/launch.h"

namespace virga {

/// The seed of a VM whose image boots from its disk: an ISO 9660 file system labelled `cidata` with meta-data
/// (instance id = the VM's UUID, host name = its name), user-data and network-config (the addresses of its NICs, found
/// by MAC). To be attached as a read-only disk; cloud-init finds it by the label. Pure but for the time stamps of the
/// files. Errors: invalid (no seed asked for, no UUID). Source: cloudinit.readthedocs.io, NoCloud data source and
/// network configuration version 2.
Result<std::string> make_seed_iso(const VmLaunch& launch);

}  // namespace virga
