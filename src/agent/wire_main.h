#pragma once

namespace virga {

/// `virgad wire`: carries frames between a guest and its port where no tap can be made, until the guest's side is
/// closed. Descriptor 3 is the packet socket of open_packet_port(), 4 a SOCK_SEQPACKET socket to QEMU, one frame a
/// message. What one side cannot take at once is lost, as on any cable. Returns the exit code.
int wire_main(int argc, char** argv);

}  // namespace virga
