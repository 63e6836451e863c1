#include "agent/peer_probe.h"

#include "base/reflect.h"

namespace virga {

BOOST_DESCRIBE_STRUCT(PeerProbe, (),
                      (from, to, answer, sequence, boot_id, free, degraded, lease_ms_left))

namespace {

/// `mac` stands over the text of `body`.
struct Datagram {
  std::string body;
  std::string mac;
};
BOOST_DESCRIBE_STRUCT(Datagram, (), (body, mac))

}  // namespace

std::string encode_probe(const PeerProbe& probe, const std::string& key, const ProbeSigner& sign) {
  Datagram datagram;
  datagram.body = to_json_text(probe);
  datagram.mac = sign(key, datagram.body);
  return to_json_text(datagram);
}

std::optional<PeerProbe> decode_probe(const std::string& data, const std::string& key,
                                      const ProbeSigner& sign) {
  if (key.empty()) return std::nullopt;
  const auto datagram = from_json_text<Datagram>(data, UnknownFields::ignore);
  if (!datagram || sign(key, datagram->body) != datagram->mac) return std::nullopt;
  const auto probe = from_json_text<PeerProbe>(datagram->body, UnknownFields::ignore);
  if (!probe) return std::nullopt;
  return *probe;
}

}  // namespace virga
