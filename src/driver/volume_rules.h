#pragma once

#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "model/meta.h"

namespace virga {

/// The rules of BlockStore that depend on no protocol and no device: every implementation asks here. Pure.

/// Errors: invalid (no TENANT/NAME).
Result<void> check_volume_id(const VolumeId& volume);

/// Errors: invalid (not 1 MiB to 64 TiB).
Result<void> check_volume_size(Mib size_mib);

/// What growth needs. Errors: invalid (smaller than it is).
Result<void> check_growth(const VolumeId& volume, Mib has, Mib wanted);

enum class Admission { attached, admitted };

/// What stands on record of a volume's attachments.
struct AttachmentState {
  Epoch revoked;                ///< attachments up to this epoch are over for ever
  Epoch highest;                ///< that was ever attached
  std::vector<Epoch> attached;  ///< in order
};

/// Whether `epoch` may be attached: it is already, or it is let in. `beside`: the attachment that a live move leaves.
/// Errors: fenced (revoked, or older than what was attached), conflict (attached otherwise).
Result<Admission> admit(const VolumeId& volume, const AttachmentState& state, const Epoch& epoch,
                        const Epoch& beside);

}  // namespace virga
