#pragma once

namespace virga {

/// `virgad relay client|server`: encrypts the connection of one live migration until it ends; see edge/psk_relay.h.
/// Descriptors: 3 = to the other host, 4 = QEMU's, 5 = the key, to its end. Exit 0: over; 1: broken; 2: usage; 3: the
/// other end does not know the key, or what came was changed.
int relay_main(int argc, char** argv);

}  // namespace virga
