#pragma once

#include "model/launch.h"
#include "runtime/cluster_view.h"

namespace virga {

/// The resolved configuration of a VM for one placement: what the stored VM, its image and its ports say, joined.
/// Pure. Errors: not_found (image or network is gone).
Result<VmLaunch> resolve_launch(const ClusterView& view, const Vm& vm, const Epoch& epoch);

/// What is fixed at a VM's first placement, so that its guest sees the same machine for ever.
VmIdentity make_identity(const Vm& vm, const Host& host);

}  // namespace virga
